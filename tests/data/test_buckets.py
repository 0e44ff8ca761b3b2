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


@given(lengths_of_rows, st.integers(1, 9), st.integers(0, 2))
def test_padding_weighs_nothing_whatever_the_rows_weigh(lengths, batch_size, dimensions):
    """The rows' own weights come once each, also one that is not finite, and per entry if they are so."""
    weights = np.arange(1, len(lengths) + 1, dtype=np.float64).reshape(-1, *[1] * dimensions) * np.ones(
        [2] * dimensions
    )
    weights[-1] = np.inf
    rows = Ragged.of([[1] * length for length in lengths], np.int32)
    options = {"batch_size": batch_size, "bucket_boundaries": {"x": BOUNDARIES}, "seed": None}
    batches = Buckets({"x": rows}, {"weights": weights, "row": np.arange(len(lengths))}, **options)
    total = 0.0
    for batch in (batches[i] for i in range(len(batches))):
        assert batch["weights"].dtype == np.float32
        assert batch["weights"].shape == (batch_size, *weights.shape[1:])
        total += batch["weights"].sum(axis=0)
        for row, weight in zip(batch["row"], batch["weights"], strict=True):
            assert (weight == weights[row]).all() or (weight == 0).all()
    assert (total == weights.sum(axis=0)).all()
    finite = Buckets({"x": rows}, {"weights": np.ones(len(lengths), bool)}, **options)
    assert sum(finite[i]["weights"].sum() for i in range(len(finite))) == len(lengths)


def test_weights_reach_training_and_shards():
    rows, weights = Ragged.of([[1]] * 4), np.array([0.5, 2.0, 0.0, 3.0])
    options = {"batch_size": 4, "bucket_boundaries": {"x": (1,)}}
    whole = Buckets({"x": rows}, {"weights": weights}, **options, seed=0)[5]["weights"]
    assert sorted(whole.tolist()) == sorted(weights.tolist())
    parts = [Buckets({"x": rows}, {"weights": weights}, **options, seed=0, shard=(i, 2))[5] for i in range(2)]
    assert np.concatenate([part["weights"] for part in parts]).tolist() == whole.tolist()


@pytest.mark.parametrize(
    ("rows", "numbers", "message"),
    [
        (("x",), ("x_length",), "no column may be called x_length: batches have the lengths of 'x' there"),
        (("x", "x_length"), (), "no column may be called x_length"),
        (("x",), ("x",), "must have different names; got 'x' twice"),
        (("row",), ("row",), "must have different names; got 'row' twice"),
        (("x", "weights"), (), "called weights must be one of numbers"),
        (("weights",), (), "called weights must be one of numbers"),
    ],
)
def test_no_array_takes_the_place_of_another(rows, numbers, message):
    one = Ragged.of([[1], [2]])
    with pytest.raises(ValueError, match=message):
        Buckets(
            dict.fromkeys(rows, one), dict.fromkeys(numbers, np.zeros(2)), batch_size=2,
            bucket_boundaries=dict.fromkeys(rows, (1,)), seed=None,
        )  # fmt: skip


@given(lengths_of_rows, st.integers(1, 3))
def test_epochs_are_those_of_the_rows(lengths, epochs):
    """Though batches for training have no end: so many epochs of every row once but for a remainder."""
    training, evaluation = make(lengths), make(lengths, seed=None)
    read = [batch["row"].tolist() for batch in prebatched(training, epochs=epochs)]
    n = training.batches_per_epoch
    assert read == [training[i]["row"].tolist() for i in range(epochs * n)]
    assert len(list(prebatched(evaluation, epochs=epochs))) == epochs * len(evaluation)
    iterator = iter(prebatched(training, epochs=epochs))
    iterator.set_state({"next_index": epochs * n - 1})
    assert [batch["row"].tolist() for batch in iterator] == read[-1:]


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
