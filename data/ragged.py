"""Rows of different lengths in one flat array."""

from collections.abc import Iterable, Iterator
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Int, Shaped

Truncation = Literal["head", "tail", "both"]
"""What is kept of a row that is too long: its first entries, its last, or half of each."""


class Ragged:
    """Rows of different lengths, one after the other in `values`; row i is `values[offsets[i]:offsets[i + 1]]`.

    Millions of tokens are then two arrays, which load from a file at once, or stay there (memory-mapped).

    Args:
        values: the entries of all rows.
        offsets: where each row starts, and at last where the last one ends.

    Raises:
        ValueError: the offsets don't run from 0 to the number of values without a step back.

    Example:
        >>> rows = Ragged.of([np.array([5, 3]), np.array([], int), np.array([8])])
        >>> len(rows), rows[0].tolist(), rows.lengths.tolist()
        (3, [5, 3], [2, 0, 1])
        >>> rows.take(np.array([2, 0])).values.tolist()
        [8, 5, 3]
    """

    def __init__(self, values: Shaped[np.ndarray, " entries"], offsets: Int[np.ndarray, " bounds"]):
        if len(offsets) < 1 or offsets[0] != 0 or offsets[-1] != len(values) or np.any(np.diff(offsets) < 0):
            raise ValueError(f"offsets must run from 0 to the number of values, {len(values)}, without a step back")
        self.values = values
        self.offsets = offsets

    @classmethod
    def of(cls, rows: Iterable[Any], dtype: Any = None) -> "Ragged":
        """From one-dimensional arrays or sequences, at least one."""
        arrays = [np.asarray(row, dtype) for row in rows]
        if not arrays:
            raise ValueError("rows is empty: there must be at least one")
        offsets = np.zeros(len(arrays) + 1, np.int64)
        np.cumsum([len(array) for array in arrays], out=offsets[1:])
        return cls(np.concatenate(arrays), offsets)

    @property
    def lengths(self) -> Int[np.ndarray, " rows"]:
        """Entries of each row."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int | np.integer) -> Shaped[np.ndarray, " length"]:
        if not 0 <= i < len(self):
            raise IndexError(f"row {i} is out of range: there are rows 0..{len(self) - 1}")
        return self.values[self.offsets[i] : self.offsets[int(i) + 1]]

    def __iter__(self) -> Iterator[Shaped[np.ndarray, " length"]]:
        return (self[i] for i in range(len(self)))

    def take(self, rows: Int[np.ndarray, " taken"]) -> "Ragged":
        """Some rows, in the order asked for."""
        if not len(rows):
            return Ragged(self.values[:0], np.zeros(1, np.int64))
        return Ragged.of([self[i] for i in rows])

    def cut(self, length: int, truncation: Truncation = "head", *, before: int = 0, after: int = 0) -> "Ragged":
        """Rows of at most `length` entries: of longer ones the first, the last, or half of each from both ends.

        Args:
            length: at least 1 beside those of `before` and `after`.
            truncation: which entries are kept.
            before, after: entries at the start and the end of a row that are kept in any case, such as the special
                tokens around a text.

        Example:
            >>> Ragged.of([np.arange(9), np.arange(2)]).cut(4, "both").values.tolist()
            [0, 1, 7, 8, 0, 1]
            >>> Ragged.of([np.arange(9)]).cut(4, "head", before=1, after=1).values.tolist()
            [0, 1, 2, 8]
        """
        room = length - before - after
        if room < 1:
            beside = f" beside {before + after} that are kept" if before + after else ""
            raise ValueError(f"length must be at least 1{beside}; got {length}")
        if truncation not in get_args(Truncation):
            raise ValueError(f"truncation must be one of {', '.join(get_args(Truncation))}; got {truncation!r}")
        head = before + {"head": room, "tail": 0, "both": room // 2}[truncation]
        row = np.repeat(np.arange(len(self)), self.lengths)
        place = np.arange(len(self.values)) - self.offsets[row]
        beyond = place - self.lengths[row] + (length - head)  # at least 0 in the last `length - head` entries
        short = self.lengths[row] <= length
        kept = short | (place < head) | (beyond >= 0)
        offsets = np.zeros(len(self) + 1, np.int64)
        np.cumsum(np.minimum(self.lengths, length), out=offsets[1:])
        return Ragged(self.values[kept], offsets)

    def __repr__(self) -> str:
        return f"Ragged({len(self)} rows, {len(self.values)} entries of {self.values.dtype})"
