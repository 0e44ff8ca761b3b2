"""Synthetic sequences to learn from: sort, reverse or copy integers.

A random-access source: `source[i]` is a dictionary of `inputs`, `targets` and `weights` and depends on nothing
but the source's arguments and `i`, so that a run can stop and resume anywhere.
"""

import functools
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int, Int32, UInt64

Task = Literal["sort", "reverse", "copy"]
Part = Literal["train", "validation", "test"]
Item = dict[str, Int32[np.ndarray, " length"] | Float[np.ndarray, " length"]]

ENDLESS = 2**40
"""What `len` says of a source without an end: more items than any run reads."""

_BLOCK = 4096  # sequences drawn at once: one item is then a slice
_FEWEST = 100  # different sequences below which a tenth of them would be no test
_LARGEST = 2**31 - 2  # the largest integer whose vocabulary still fits into int32


class SequenceTask:
    """Endless sequences `0, source, 0, answer`, where the answer sorts, reverses or copies the source.

    The source integers are uniform in 1..max_value. `inputs` is the sequence without its last entry and
    `targets` the sequence without its first, so that entry j of the targets follows entry j of the inputs;
    `weights` is 1 where the target belongs to the answer and 0 elsewhere.

    A fixed hash of the source integers sends about 10 % of all different sources to the test part, 10 % to
    the validation part and the others to the training part. So no sequence of one part, whatever its seed,
    occurs in another.

    Args:
        task: what the answer does with the source.
        length: integers in the source, at least 1.
        max_value: the largest integer, at least 2.
        part: which of the three disjoint parts.
        seed: at least 0; another seed gives other sequences of the same part.
        size: number of items; None for no end.

    Raises:
        ValueError: an argument is out of its range, or there are fewer than 100 different sources, too few
            to be split into three parts.

    Example:
        >>> item = SequenceTask("reverse", length=3, max_value=9)[0]
        >>> sequence = [*item["inputs"].tolist(), int(item["targets"][-1])]
        >>> sequence[1:4] == sequence[5:][::-1]
        True
        >>> item["weights"].tolist()
        [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0]
    """

    def __init__(
        self,
        task: Task,
        *,
        length: int = 4,
        max_value: int = 30,
        part: Part = "train",
        seed: int = 0,
        size: int | None = None,
    ):
        if task not in get_args(Task):
            raise ValueError(f"task must be one of {', '.join(get_args(Task))}; got {task!r}")
        if part not in get_args(Part):
            raise ValueError(f"part must be one of {', '.join(get_args(Part))}; got {part!r}")
        if length < 1:
            raise ValueError(f"length must be at least 1; got {length}")
        if not 2 <= max_value <= _LARGEST:
            raise ValueError(f"max_value must be in 2..{_LARGEST}; got {max_value}")
        if seed < 0:
            raise ValueError(f"seed must be at least 0; got {seed}")
        if length < 64 and max_value**length < _FEWEST:
            raise ValueError(
                f"only {max_value**length} different sequences of {length} integers up to {max_value}: too "
                f"few for three disjoint parts; at least {_FEWEST} are needed, so raise length or max_value"
            )
        if size is not None and not 1 <= size <= ENDLESS:
            raise ValueError(f"size must be in 1..{ENDLESS} or None; got {size}")
        self.task: Task = task
        self.length = length
        self.max_value = max_value
        self.part: Part = part
        self.seed = seed
        self.size = size
        self._weights = np.concatenate([np.zeros(length + 1, np.float32), np.ones(length, np.float32)])
        self._weights.flags.writeable = False
        self._block = functools.lru_cache(maxsize=64)(self._make_block)

    def fingerprint(self) -> str:
        """What makes the sequences what they are: all arguments."""
        return repr(self)

    @property
    def vocab_size(self) -> int:
        """Number of different ids: the integers and the 0 that stands around the source."""
        return self.max_value + 1

    def __len__(self) -> int:
        return ENDLESS if self.size is None else self.size

    def __getitem__(self, i: int | np.integer) -> Item:
        if not 0 <= i < len(self):  # never from the end of what may be endless
            raise IndexError(f"index {i} is out of range: the source has items 0..{len(self) - 1}")
        block, row = divmod(int(i), _BLOCK)
        sequence = self._block(block)[row]
        return {"inputs": sequence[:-1], "targets": sequence[1:], "weights": self._weights}

    def __repr__(self) -> str:
        return (
            f"SequenceTask({self.task!r}, length={self.length}, max_value={self.max_value}, "
            f"part={self.part!r}, seed={self.seed}, size={self.size})"
        )

    def prompts_and_answers(self, n: int) -> tuple[Int32[np.ndarray, "n prompt"], Int32[np.ndarray, "n answer"]]:
        """The first n items as prompts `0, source, 0` and the answers that should follow them.

        Raises:
            ValueError: n is not in 1..len(self).
        """
        if not 1 <= n <= len(self):
            raise ValueError(f"n must be in 1..{len(self)}; got {n}")
        blocks = [self._block(block) for block in range(-(-n // _BLOCK))]
        sequences = np.concatenate(blocks)[:n]
        return sequences[:, : self.length + 2], sequences[:, self.length + 2 :]

    def _make_block(self, block: int) -> Int32[np.ndarray, "block sequence"]:
        """The sequences block * 4096 and following: drawn until enough of them fall into our part."""
        number = get_args(Part).index(self.part)
        draws = np.random.default_rng([self.seed, number, block])
        kept: list[Int32[np.ndarray, "some length"]] = []
        while sum(map(len, kept)) < _BLOCK:
            drawn = draws.integers(1, self.max_value, (_BLOCK, self.length), np.int32, endpoint=True)
            kept.append(drawn[_part_of(drawn) == number])
        source = np.concatenate(kept)[:_BLOCK]
        answer = {"sort": np.sort(source, axis=1), "reverse": source[:, ::-1], "copy": source}[self.task]
        zero = np.zeros((_BLOCK, 1), np.int32)
        sequences = np.concatenate([zero, source, zero, answer], axis=1)
        sequences.flags.writeable = False  # items are views of it
        return sequences


def _part_of(source: Int32[np.ndarray, "n length"]) -> Int[np.ndarray, " n"]:
    """The number of the part of each source: 0 train (80 %), 1 validation (10 %), 2 test (10 %).

    Each integer is mixed into 64 bits by multiplication with an odd constant and a shift (arithmetic modulo
    2**64 is what numpy's unsigned integers do); the hash is the same on every machine and for every seed.
    """
    mixed: UInt64[np.ndarray, " n"] = np.full(len(source), 0x9E3779B97F4A7C15, np.uint64)
    for column in source.T.astype(np.uint64):
        mixed = (mixed ^ column) * np.uint64(0xD6E8FEB86659FD93)
        mixed ^= mixed >> np.uint64(32)
    tenth = mixed % np.uint64(10)
    test: Bool[np.ndarray, " n"] = tenth == 0
    return np.where(test, 2, np.where(tenth == 1, 1, 0))
