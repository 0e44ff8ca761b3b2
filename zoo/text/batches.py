"""Rows of ids, cut to what a model takes and put into batches of few shapes."""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, get_args

import numpy as np
from jaxtyping import Int, Int32

from zoo.text.tokenizers import Tokenizer

Truncation = Literal["head", "tail", "both"]
"""What is kept of a text that is too long: its first tokens, its last, or half of each."""

Row = Int[np.ndarray, "_"]
"""The ids of one text; those of several need not be equally many."""

Progress = Callable[[int], object]
"""Called after each batch with the number of its texts: the `update` of a bar of tqdm's."""


def check_known(rows: Sequence[Row], vocab_size: int | None, most: int | None = None) -> None:
    """Raises `ValueError` unless each text has ids, not more than `most`, all of them in the model's vocabulary.

    Of an id that it has not, the model would make NaN.
    """
    for i, row in enumerate(rows):
        if not len(row) or (most is not None and len(row) > most):
            limit = "at least one token" if most is None else f"1 to {most} tokens"
            raise ValueError(f"text {i} must have {limit}, got {len(row)}")
    if vocab_size is None or not len(rows):
        return
    ids = np.concatenate(rows)
    if (outside := np.flatnonzero((ids < 0) | (ids >= vocab_size))).size:
        i = int(np.searchsorted(np.cumsum([len(row) for row in rows]), outside[0], side="right"))
        raise ValueError(
            f"text {i} has token {ids[outside[0]]}, which is outside the model's vocabulary (0 to {vocab_size - 1}): "
            "is this the model's tokenizer?"
        )


def encoded(tokenizer: Tokenizer, text: str, most: int | None, truncation: Truncation = "head") -> Row:
    """The ids of a text, at most so many; the special ones that the tokenizer puts around it are kept.

    Raises:
        ValueError: there is no token in the text, not even a special one, or no room for one.
    """
    if truncation not in get_args(Truncation):
        raise ValueError(f"truncation must be one of {', '.join(get_args(Truncation))}; got {truncation!r}")
    ids = tokenizer.encode(text)
    before, after = len(tokenizer.before), len(tokenizer.after)
    inner = ids[before : len(ids) - after]
    if not len(ids):
        raise ValueError(f"a text must have at least one token; there is none in {text!r}")
    if most is None or len(ids) <= most:
        return ids
    room = most - before - after
    if room < 1:
        raise ValueError(f"there must be room for a token beside {before + after} special ones, got room for {most}")
    head = {"head": room, "tail": 0, "both": room // 2}[truncation]
    kept = inner[:head], inner[len(inner) - (room - head) :]
    return np.concatenate([ids[:before], *kept, ids[len(ids) - after :]])


def width_of(length: int, most: int | None) -> int:
    """So many tokens rounded up to one of few widths, 8, 12, 16, 24, 32, 48 and so on, at most `most`.

    Example:
        >>> [width_of(length, 512) for length in (1, 9, 17, 200, 512)]
        [8, 12, 24, 256, 512]
    """
    width = 8
    while width < length:
        width = width * 3 // 2 if width & (width - 1) == 0 else width // 3 * 4
    return width if most is None else min(width, most)


def in_batches(
    rows: Sequence[Row],
    *,
    batch_size: int,
    most: int | None,
    vocab_size: int | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[Int[np.ndarray, " real"], Int32[np.ndarray, "batch width"], Int32[np.ndarray, " batch"]]]:
    """Yields which rows there are in a batch, their ids, padded on the right with 0, and their lengths.

    All rows of a batch have about one length, and one that is computed with 16 others costs about a sixteenth. For
    few shapes the number of a batch's rows is rounded up to a power of two: those that are too many are one padding
    token each, at the end. What a row is padded to depends on its own length alone. `progress` is called when the
    next batch is asked for, and after the last one.

    Raises:
        ValueError: a row is empty or longer than `most`, or has an id that is not below `vocab_size`.
    """
    check_known(rows, vocab_size, most)
    widths = np.array([width_of(len(row), most) for row in rows])
    for width in np.unique(widths).tolist():
        chosen = np.flatnonzero(widths == width)
        for start in range(0, len(chosen), batch_size):
            real = chosen[start : start + batch_size]
            size = 1 if len(rows) == 1 else min(batch_size, max(16, 1 << (len(real) - 1).bit_length()))
            tokens, lengths = np.zeros((size, width), np.int32), np.ones(size, np.int32)
            for place, i in enumerate(real.tolist()):
                tokens[place, : len(rows[i])], lengths[place] = rows[i], len(rows[i])
            yield real, tokens, lengths
            if progress is not None:
                progress(len(real))
