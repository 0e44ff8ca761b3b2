"""Parallel streams read the whole text, each target once, and n-grams are what slow counting says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.kneser_ney import KneserNey
from data.pipeline import whole_batches
from data.text import Streams


def test_processes_have_streams_of_their_own():
    whole, parts = Streams(np.arange(50), 6, 4), [Streams(np.arange(50), 6, 4, shard=(i, 3)) for i in range(3)]
    for i in range(len(whole)):
        together = np.concatenate([part[i]["inputs"] for part in parts])
        np.testing.assert_array_equal(together, whole[i]["inputs"])
    with pytest.raises(ValueError, match="num_streams must be a multiple of the 4 shards; got 6"):
        Streams(np.arange(50), 6, 4, shard=(0, 4))


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 200), st.integers(1, 9), st.integers(1, 30))
def test_every_target_once_and_in_order(n, num_streams, length):
    num_streams = min(num_streams, n - 1)
    streams = Streams(np.arange(n), num_streams, length)
    batches = [streams[i] for i in range(len(streams))]
    assert [bool(batch["fresh"]) for batch in batches] == [True] + [False] * (len(batches) - 1)
    assert all(batch["inputs"].shape == (num_streams, length) for batch in batches)
    read = {
        name: np.concatenate([batch[name] for batch in batches], axis=1) for name in ("inputs", "targets", "weights")
    }
    targets = []
    for inputs, row, weights in zip(*read.values(), strict=True):
        count = int(weights.sum())
        assert (weights[:count] == 1).all()  # padding stands behind
        np.testing.assert_array_equal(inputs[:count] + 1, row[:count])
        np.testing.assert_array_equal(np.diff(row[:count]), 1)  # one stream is one piece of text
        targets += row[:count].tolist()
    assert targets == list(range(1, n))


def test_wrong_arguments():
    for arguments, message in (
        ((np.arange(1), 1, 1), "at least 2"),
        ((np.arange(9), 0, 1), "num_streams"),
        ((np.arange(9), 9, 1), "num_streams"),
        ((np.arange(9), 2, 0), "length"),
    ):
        with pytest.raises(ValueError, match=message):
            Streams(*arguments)
    with pytest.raises(IndexError):
        Streams(np.arange(9), 2, 2)[2]
    with pytest.raises(ValueError, match="epochs"):
        whole_batches(Streams(np.arange(9), 2, 2), epochs=0)


def test_batches_go_on_where_they_stopped():
    source = Streams(np.arange(50), 2, 5)
    reader = iter(whole_batches(source))
    first = [next(reader)["inputs"] for _ in range(7)]  # into the second epoch
    state = reader.get_state()
    rest = [next(reader)["inputs"] for _ in range(5)]
    again = iter(whole_batches(source))
    again.set_state(state)
    for batch in rest:
        np.testing.assert_array_equal(next(again)["inputs"], batch)
    np.testing.assert_array_equal(first[5], first[0])


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(0, 3), min_size=6, max_size=60), st.integers(1, 4), st.lists(st.integers(0, 3), max_size=5)
)
def test_ngram_probabilities_add_up_to_one(ids, order, context):
    model = KneserNey(np.array(ids), 4, order)
    total = sum(model.probability(context, token) for token in range(4))
    assert total == pytest.approx(1.0, abs=1e-9)
    assert all(model.probability(context, token) > 0 for token in range(4))


def test_bigrams_by_hand():
    """a b a b a c: bigrams ab 2, ba 2, ac 1, so n1 = 1, n2 = 2, and the discounts are 0.2 and 2 (all of it)."""
    model = KneserNey(np.array([0, 1, 0, 1, 0, 2]), 3, order=2)
    freed = 2.0 + 0.2
    # Each token is preceded by one other, so the lower order keeps nothing of its counts: it is uniform.
    assert model.probability([0], 1) == pytest.approx((2 - 2.0 + freed / 3) / 3)
    assert model.probability([0], 2) == pytest.approx((1 - 0.2 + freed / 3) / 3)
    assert model.bits(np.array([1]), np.array([0])) == pytest.approx(-np.log2(model.probability([0], 1)))
