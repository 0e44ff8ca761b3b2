import itertools

import grain
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.pipeline import evaluation_batches, pipeline, prebatched
from data.synthetic import SequenceTask


def numbers(n):
    """A source of which every item tells its index."""
    return [{"x": np.array([i, i]), "weights": np.ones(2, np.float32)} for i in range(n)]


def indices(batch):
    return batch["x"][:, 0].tolist()


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.integers(0, 12), st.integers(1, 3), st.integers(0, 5) | st.none())
def test_every_epoch_has_every_item_once(batch_size, more, epochs, seed):
    n = batch_size + more
    read = [i for b in pipeline(numbers(n), batch_size, seed=seed, epochs=epochs) for i in indices(b)]
    assert len(read) == n * epochs // batch_size * batch_size
    for epoch in range(epochs):
        part = read[epoch * n : (epoch + 1) * n]
        if len(part) == n:
            assert sorted(part) == list(range(n))
        else:
            assert len(set(part)) == len(part)
    if seed is None:
        assert read == [i % n for i in range(len(read))]


def test_epochs_are_shuffled_anew_and_a_seed_repeats_them():
    def epochs(seed):
        batches = pipeline(numbers(64), 64, seed=seed, epochs=3)
        return [indices(batch) for batch in batches]

    first = epochs(0)
    assert first == epochs(0)
    orders = [tuple(order) for order in [*first, *epochs(1)]]
    assert len(set(orders)) == 6  # no two epochs, and no two seeds, are alike
    assert tuple(range(64)) not in orders


def test_state_is_exact_after_every_batch_across_epochs():
    def batches():
        return iter(pipeline(numbers(10), 4, seed=7, epochs=3))  # batches go across the ends of epochs

    whole = [indices(batch) for batch in batches()]
    assert len(whole) == 7
    for position in range(len(whole) + 1):
        iterator = batches()
        for _ in range(position):
            next(iterator)
        state = iterator.get_state()
        once = batches()
        once.set_state(state)
        restored = batches()
        restored.set_state(once.get_state())  # a restored iterator has the same state
        assert [indices(batch) for batch in restored] == whole[position:]


def test_state_of_an_endless_source_costs_nothing_however_far():
    iterator = iter(pipeline(SequenceTask("sort"), 16, seed=None))
    iterator.set_state({"next_index": 10**9})
    expected = SequenceTask("sort")[16 * 10**9]
    np.testing.assert_array_equal(next(iterator)["inputs"][0], expected["inputs"])
    assert iterator.get_state() == {"next_index": 10**9 + 1}


def test_batches_are_numpy_arrays_of_one_shape():
    batch = next(iter(pipeline(SequenceTask("sort"), 16, seed=None)))
    assert {name: (type(a), a.shape, a.dtype) for name, a in batch.items()} == {
        "inputs": (np.ndarray, (16, 9), np.int32),
        "targets": (np.ndarray, (16, 9), np.int32),
        "weights": (np.ndarray, (16, 9), np.float32),
    }


@settings(deadline=None, max_examples=20)
@given(st.integers(6, 20), st.integers(1, 3), st.integers(0, 3) | st.none(), st.sampled_from([1, 3, None]))
def test_the_parts_of_a_batch_are_the_batch_of_one_process(n, of, seed, epochs):
    parts = [pipeline(numbers(n), 6, seed=seed, epochs=epochs, shard=(which, of)) for which in range(of)]
    whole = pipeline(numbers(n), 6, seed=seed, epochs=epochs)
    together = [
        [i for part in batch for i in indices(part)] for batch in itertools.islice(zip(*parts, strict=True), 12)
    ]
    assert together == [indices(batch) for batch in itertools.islice(whole, 12)]


def test_short_last_batch_may_be_kept():
    sizes = [len(indices(b)) for b in pipeline(numbers(5), 2, seed=None, epochs=1, drop_remainder=False)]
    assert sizes == [2, 2, 1]


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 20), st.integers(1, 4), st.integers(1, 3))
def test_evaluation_has_everything_once_and_one_shape(n, rows, of):
    parts = [list(evaluation_batches(numbers(n), rows * of, shard=(which, of))) for which in range(of)]
    read = []
    for batch in zip(*parts, strict=True):  # equally many for each process
        assert all(part["x"].shape == part["weights"].shape == (rows, 2) for part in batch)
        x, weights = (np.concatenate([part[name] for part in batch]) for name in ("x", "weights"))
        counts = weights[:, 0] == 1
        assert np.all(weights[~counts] == 0)
        assert not np.any(np.diff(counts.astype(int)) > 0)  # padding comes last, and repeats the last row
        assert set(x[~counts, 0].tolist()) <= {n - 1}
        read += x[counts, 0].tolist()
    assert read == list(range(n))


def test_padding_leaves_the_source_alone():
    source = numbers(3)
    assert len(list(evaluation_batches(source, 2))) == 2
    assert all(item["weights"].sum() == 2 for item in source)


def test_evaluation_can_be_read_again():
    batches = evaluation_batches(numbers(3), 2)
    assert [indices(b) for b in batches] == [indices(b) for b in batches] == [[0, 1], [2, 2]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1; got 0"),
        ({"batch_size": 9}, "0 batches: batch_size is 9, and the source has only 8 items"),
        ({"batch_size": 5, "shard": (1, 2)}, "batch_size must be a multiple of the 2 processes that share it; got 5"),
        ({"drop_remainder": False, "shard": (1, 2)}, "drop_remainder must be True"),
        ({"epochs": 0}, "epochs must be at least 1 or None; got 0"),
        ({"seed": -1}, "seed must be in"),
        ({"seed": 2**32}, "seed must be in"),
        ({"shard": (2, 2)}, r"shard must be \(which, of\) with 0 <= which < of; got \(2, 2\)"),
        ({"shard": (-1, 2)}, "shard must be"),
        ({"shard": (0, 0)}, "shard must be"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        pipeline(numbers(8), **{"batch_size": 4, "seed": 0, **arguments})


def test_endless_sources_are_neither_shuffled_nor_evaluated_whole():
    with pytest.raises(ValueError, match="too long to be shuffled as a whole; use seed=None"):
        pipeline(SequenceTask("sort"), 4, seed=0)
    with pytest.raises(ValueError, match="has no end"):
        evaluation_batches(SequenceTask("sort"), 4)
    for read in (lambda: pipeline(SequenceTask("sort"), 4, seed=None, epochs=2),
                 lambda: prebatched(SequenceTask("sort"), epochs=2)):  # fmt: skip
        with pytest.raises(ValueError, match="has no end, so it can't be read 2 times; use epochs=None"):
            read()


def test_evaluation_needs_weights_and_items():
    with pytest.raises(ValueError, match=r"items need `weights`.*got \['x'\]"):
        evaluation_batches([{"x": np.zeros(1)}], 4)
    with pytest.raises(ValueError, match="0 batches"):
        evaluation_batches([], 4)


def test_nothing_runs_in_other_threads_or_processes():
    dataset = pipeline(numbers(8), 4, seed=0)
    assert isinstance(dataset, grain.IterDataset)
    import threading

    before = threading.active_count()
    next(iter(dataset))
    assert threading.active_count() == before
