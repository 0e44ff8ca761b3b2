"""Suggested boundaries: none is better, as trying all of them shows; and they are what `Buckets` takes."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.bucket_boundaries import suggest_bucket_boundaries
from data.buckets import Buckets
from data.ragged import Ragged


def entries(lengths, boundaries):
    """Of all rows, each padded to the first boundaries that hold it."""
    total = 0
    for row in zip(*lengths.values(), strict=True):
        edges = zip(*boundaries.values(), strict=True)
        total += sum(next(edge for edge in edges if all(n <= most for n, most in zip(row, edge, strict=True))))
    return total


def fewest_entries(lengths, num_shapes, multiple_of):
    """Of all choices of boundaries that grow in each column and end with the largest lengths."""
    last = {name: max(column) for name, column in lengths.items()}
    ends = [
        sorted({min(-(-n // multiple_of) * multiple_of, last[name]) for n in column})
        for name, column in lengths.items()
    ]
    smaller = [
        edge for edge in itertools.product(*ends) if all(n < m for n, m in zip(edge, last.values(), strict=True))
    ]
    found = []
    for count in range(num_shapes):
        for chain in itertools.combinations(smaller, count):
            if all(a < b for edge, later in itertools.pairwise(chain) for a, b in zip(edge, later, strict=True)):
                columns = zip(*chain, last.values(), strict=True)
                found.append(entries(lengths, dict(zip(lengths, columns, strict=True))))
    return min(found)


some_lengths = st.lists(st.integers(1, 9), min_size=1, max_size=9)


@given(some_lengths, st.integers(1, 4), st.integers(1, 3))
def test_of_one_column_no_boundaries_are_better(lengths, num_shapes, multiple_of):
    lengths = {"x": np.array(lengths)}
    found = suggest_bucket_boundaries(lengths, num_shapes, multiple_of=multiple_of)
    assert len(found["x"]) <= num_shapes
    assert found["x"][-1] == lengths["x"].max()
    assert all(edge % multiple_of == 0 for edge in found["x"][:-1])
    assert entries(lengths, found) == fewest_entries(lengths, num_shapes, multiple_of)


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=8), st.integers(1, 3))
def test_of_two_columns_no_boundaries_are_better(rows, num_shapes):
    lengths = dict(zip("st", np.array(rows).T, strict=True))
    found = suggest_bucket_boundaries(lengths, num_shapes)
    assert entries(lengths, found) == fewest_entries(lengths, num_shapes, 1)


def test_buckets_take_them_and_pad_less():
    rng = np.random.default_rng(0)
    source = np.minimum(1 + rng.geometric(0.1, 1200), 60)
    rows = {"s": Ragged.of([[1] * n for n in source]), "t": Ragged.of([[1] * (n + n // 3) for n in source])}
    lengths = {name: column.lengths for name, column in rows.items()}
    shares = []
    for boundaries in (
        suggest_bucket_boundaries(lengths, 5),
        {"s": (12, 24, 36, 48, 60), "t": (16, 32, 48, 64, 80)},
    ):
        batches = Buckets(rows, {}, batch_size=16, bucket_boundaries=boundaries, seed=0)
        epoch = [batches[i] for i in range(batches.batches_per_epoch)]
        real = sum(batch["s_length"].sum() + batch["t_length"].sum() for batch in epoch)
        shares.append(1 - real / sum(batch["s"].size + batch["t"].size for batch in epoch))
    assert shares[0] < shares[1] - 0.03


def test_odd_lengths():
    assert suggest_bucket_boundaries({"x": np.array([0, 0, 3])}, 5) == {"x": (1, 3)}  # no more than there are
    assert suggest_bucket_boundaries({"x": np.array([7, 7])}, 3) == {"x": (7,)}
    long = np.random.default_rng(0).integers(1, 3000, 50_000)  # every length occurs, and it takes no time
    assert len(suggest_bucket_boundaries({"x": long}, 4)["x"]) == 4
    for lengths, options, message in (
        ({}, {}, "at least one"),
        ({"x": np.zeros(0, int)}, {}, "at least one"),
        ({"x": np.ones(2, int), "y": np.ones(3, int)}, {}, r"equally many in each column; got {'x': 2, 'y': 3}"),
        ({"x": np.ones(2, int)}, {"num_shapes": 0}, "num_shapes and multiple_of must be at least 1; got 0 and 1"),
        ({"x": np.ones(2, int)}, {"multiple_of": 0}, "got 2 and 0"),
    ):
        with pytest.raises(ValueError, match=message):
            suggest_bucket_boundaries(lengths, **{"num_shapes": 2, **options})
