"""Rows of different lengths, against lists of lists."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.ragged import Ragged

lists = st.lists(st.lists(st.integers(-5, 5), max_size=6), min_size=1, max_size=6)


def as_lists(rows: Ragged) -> list[list[int]]:
    return [rows[i].tolist() for i in range(len(rows))]


@given(lists, st.data())
def test_rows_are_lists(rows, data):
    ragged = Ragged.of(rows, np.int32)
    assert as_lists(ragged) == rows
    assert ragged.lengths.tolist() == [len(row) for row in rows]
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1)))
    assert as_lists(ragged.take(np.array(chosen, int))) == [rows[i] for i in chosen]


@given(lists, st.integers(1, 7))
def test_cutting(rows, length):
    ragged = Ragged.of(rows, np.int32)
    whole = [len(row) <= length for row in rows]
    first = [row[:length] for row in rows]
    last = [row if fits else row[-length:] for row, fits in zip(rows, whole, strict=True)]
    tail = length - length // 2
    ends = [row if fits else row[: length // 2] + row[-tail:] for row, fits in zip(rows, whole, strict=True)]
    assert as_lists(ragged.cut(length, "head")) == first
    assert as_lists(ragged.cut(length, "tail")) == last
    assert as_lists(ragged.cut(length, "both")) == ends


def test_wrong_arguments_are_named():
    rows = Ragged.of([[1], [2, 3]])
    for index in (-1, 2):
        with pytest.raises(IndexError, match=str(index)):
            rows[index]
    for offsets in ([0, 2], [1, 3], [0, 2, 1, 3], []):
        with pytest.raises(ValueError, match="offsets"):
            Ragged(np.arange(3), np.array(offsets, int))
    with pytest.raises(ValueError, match="rows is empty"):
        Ragged.of([])
    with pytest.raises(ValueError, match="length"):
        rows.cut(0)
