"""Parallel streams read the whole text, each target once, and n-grams are what slow counting says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.pipeline import prebatched
from data.windows import Streams


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
    assert [bool(batch["reset"]) for batch in batches] == [True] + [False] * (len(batches) - 1)
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
        prebatched(Streams(np.arange(9), 2, 2), epochs=0)


def test_batches_go_on_where_they_stopped():
    source = Streams(np.arange(50), 2, 5)
    reader = iter(prebatched(source))
    first = [next(reader)["inputs"] for _ in range(7)]  # into the second epoch
    state = reader.get_state()
    rest = [next(reader)["inputs"] for _ in range(5)]
    again = iter(prebatched(source))
    again.set_state(state)
    for batch in rest:
        np.testing.assert_array_equal(next(again)["inputs"], batch)
    np.testing.assert_array_equal(first[5], first[0])
