"""Batches of rows of about one length: nothing lost, nothing cut that fits, little padding, the same again."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.buckets import Buckets
from data.pipeline import prebatched
from data.ragged import Ragged

BOUNDARIES = (2, 4, 8)


def make(lengths, **options):
    """Row i holds i + 1, as often as its length; its number is i."""
    rows = Ragged.of([[i + 1] * length for i, length in enumerate(lengths)], np.int32)
    options = {"batch_size": 4, "bucket_boundaries": {"x": BOUNDARIES}, "seed": 0} | options
    return Buckets({"x": rows}, {"row": np.arange(len(lengths))}, **options)


def check(batch, lengths):
    width = batch["x"].shape[1]
    longest = int(batch["x_length"].max())
    assert width == min(edge for edge in BOUNDARIES if edge >= longest)
    for ids, length, row in zip(batch["x"], batch["x_length"], batch["row"], strict=True):
        assert length == min(lengths[row], BOUNDARIES[-1])
        assert ids.tolist() == [row + 1] * length + [0] * (width - length)


lengths_of_rows = st.lists(st.integers(0, 11), min_size=4, max_size=30)


@given(lengths_of_rows, st.integers(0, 3))
def test_an_epoch_has_every_row_once_but_for_a_remainder(lengths, seed):
    batches = make(lengths, seed=seed)
    for epoch in range(2):
        seen = []
        for i in range(batches.batches_per_epoch):
            batch = batches[epoch * batches.batches_per_epoch + i]
            check(batch, lengths)
            assert batch["weights"].tolist() == [1.0] * 4
            seen += batch["row"].tolist()
        assert len(seen) == len(set(seen)) == len(lengths) // 4 * 4


@given(lengths_of_rows, st.integers(1, 9))
def test_evaluation_has_every_row_once(lengths, batch_size):
    batches = make(lengths, seed=None, batch_size=batch_size)
    seen = []
    for i in range(len(batches)):
        check(batches[i], lengths)
        assert batches[i]["x"].shape[0] == batch_size
        seen += batches[i]["row"][batches[i]["weights"] > 0].tolist()
    assert sorted(seen) == list(range(len(lengths)))


@given(lengths_of_rows)
def test_shards_are_the_rows_of_one_batch_padded_alike(lengths):
    whole, parts = make(lengths), [make(lengths, shard=(i, 2)) for i in range(2)]
    for i in range(whole.batches_per_epoch):
        rows = [part[i]["row"] for part in parts]
        assert np.concatenate(rows).tolist() == whole[i]["row"].tolist()
        assert {part[i]["x"].shape for part in parts} == {(2, whole[i]["x"].shape[1])}


def test_epochs_differ_and_everything_can_be_read_again():
    lengths = np.random.default_rng(0).integers(1, 9, 200)
    batches = make(lengths)
    n = batches.batches_per_epoch
    first, second = ([batches[e * n + i]["row"].tolist() for i in range(n)] for e in (0, 1))
    assert first != second
    assert sorted(map(sorted, first)) != sorted(map(sorted, second))  # other batches, not the same in another order
    assert first == [make(lengths)[i]["row"].tolist() for i in range(n)]
    assert first != [make(lengths, seed=1)[i]["row"].tolist() for i in range(n)]
    iterator = iter(prebatched(batches))
    for _ in range(n + 3):
        next(iterator)
    state, expected = iterator.get_state(), next(iterator)["row"].tolist()
    other = iter(prebatched(make(lengths)))
    other.set_state(state)
    assert next(other)["row"].tolist() == expected == second[3]


def test_little_padding():
    lengths = np.random.default_rng(0).integers(1, 9, 4000)
    batches = make(lengths, batch_size=32)
    epoch = [batches[i] for i in range(batches.batches_per_epoch)]
    real = sum(batch["x_length"].sum() for batch in epoch)
    assert real / sum(batch["x"].size for batch in epoch) > 0.78  # 8 wide without buckets: 0.56
    assert {batch["x"].shape[1] for batch in epoch} == set(BOUNDARIES)


def test_two_columns_share_the_number_of_their_edge():
    source = Ragged.of([[1] * n for n in (1, 2, 7, 2)], np.int32)
    target = Ragged.of([[2] * n for n in (3, 2, 1, 6)], np.int32)
    batches = Buckets(
        {"s": source, "t": target}, {}, batch_size=2, bucket_boundaries={"s": (2, 8), "t": (3, 6)}, seed=None
    )
    assert [(batches[i]["s"].shape, batches[i]["t"].shape) for i in range(2)] == [((2, 2), (2, 3)), ((2, 8), (2, 6))]
    with pytest.raises(ValueError, match="equally many for each column"):
        Buckets({"s": source, "t": target}, {}, batch_size=2, bucket_boundaries={"s": (2, 8), "t": (6,)}, seed=None)


def test_wrong_arguments_are_named():
    for options, message in (
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 5}, "0 batches"),
        ({"batch_size": 3, "shard": (0, 2)}, "multiple of the 2 shards"),
        ({"shard": (2, 2)}, "shard"),
        ({"bucket_boundaries": {"x": (4, 2)}}, "growing"),
        ({"bucket_boundaries": {"x": ()}}, "growing"),
        ({"bucket_boundaries": {}}, "bucket_boundaries must be given"),
    ):
        with pytest.raises(ValueError, match=message):
            make([1, 2, 3, 4], **options)
    with pytest.raises(ValueError, match="equally many rows"):
        Buckets({"x": Ragged.of([[1]])}, {"y": np.zeros(2)}, batch_size=1, bucket_boundaries={"x": (1,)}, seed=None)
    batches = make([1, 2, 3, 4], seed=None)
    for i in (-1, 1):
        with pytest.raises(IndexError, match=str(i)):
            batches[i]
