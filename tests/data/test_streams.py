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


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 60), st.integers(1, 3), st.integers(1, 9), st.integers(3, 20))
def test_parts_are_read_like_texts_of_their_own(targets, num_streams, length, part_length):
    targets += -targets % part_length  # no part is shorter, so that each has enough for all streams
    streams = Streams(np.arange(targets + 1), num_streams, length, part_length=part_length)
    parts = [
        Streams(np.arange(start, start + part_length + 1), num_streams, length)
        for start in range(0, targets, part_length)
    ]
    expected = [part[i] for part in parts for i in range(len(part))]
    assert len(streams) == len(expected)
    for i, batch in enumerate(expected):
        assert streams[i].keys() == batch.keys()
        for name, array in batch.items():
            np.testing.assert_array_equal(streams[i][name], array)


def test_the_last_part_is_what_is_left():
    streams = Streams(np.arange(11), 1, 3, part_length=4)
    assert [bool(streams[i]["reset"]) for i in range(len(streams))] == [True, False, True, False, True]
    assert [float(streams[i]["weights"].sum()) for i in range(len(streams))] == [3, 1, 3, 1, 2]
    assert "part_length=4" in repr(streams)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="part_length must be at least 1"):
        Streams(np.arange(9), 1, 1, part_length=0)
    with pytest.raises(ValueError, match="num_streams"):
        Streams(np.arange(9), 2, 1, part_length=7)
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
