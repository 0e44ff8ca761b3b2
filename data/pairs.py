"""Sentences and their translations, from anybody's files: tab-separated, or two with a sentence in each line."""

import dataclasses
import os
import string
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from data.buckets import Buckets
from data.errors import DataError
from data.ragged import Ragged
from data.text import read_text, split_lines
from data.tokenizer import TargetTokenizer, Tokenizer

_MARKS = str.maketrans("", "", string.punctuation + "¿¡")


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Sentences and a translation of each; one that has several translations is there several times.

    They are normalised, in whatever form they are given: two forms of one sentence could be in two parts of a split.

    Raises:
        ValueError: there are more sentences on one side.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]

    def __post_init__(self):
        if len(self.source) != len(self.target):
            raise ValueError(f"source and target must be equally many; got {len(self.source)} and {len(self.target)}")
        for side in ("source", "target"):
            object.__setattr__(self, side, tuple(map(normalise, getattr(self, side))))

    @classmethod
    def of(cls, pairs: Iterator[tuple[str, str]] | Sequence[tuple[str, str]]) -> "Pairs":
        """From (source, target) pairs."""
        source, target = zip(*pairs, strict=True)
        return cls(source, target)

    def __len__(self) -> int:
        return len(self.source)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return zip(self.source, self.target, strict=True)

    def references(self) -> dict[str, list[str]]:
        """All translations of each sentence."""
        found: dict[str, list[str]] = {}
        for source, target in self:
            found.setdefault(source, []).append(target)
        return found

    def standardised(self) -> "Pairs":
        """Both sides in lower case and without punctuation, see `standardise`; without pairs that are nothing else.

        Raises:
            DataError: no pair is left.
        """
        pairs = zip(*(map(standardise, side) for side in (self.source, self.target)), strict=True)
        if not (left := [pair for pair in pairs if all(pair)]):
            raise DataError("no pair has anything but punctuation on both sides, which is left out")
        return Pairs.of(left)


def normalise(sentence: str) -> str:
    """A sentence in Unicode's normal form C, where letter and accent are one character if there is one."""
    return unicodedata.normalize("NFC", sentence)


def standardise(sentence: str) -> str:
    """A sentence in lower case without ASCII's punctuation and the marks ¿ and ¡, in normal form C.

    Example:
        >>> standardise("¿Qué es eso?")
        'qué es eso'
    """
    # Once before, for the marks that have another form, and once after, for what a mark kept apart.
    return normalise(" ".join(normalise(sentence).lower().translate(_MARKS).split()))


def read_pairs(path: str | os.PathLike[str]) -> Pairs:
    """The pairs of a UTF-8 file with one in each line, the source before a tab and the target after it.

    A third column, such as the origin of a pair, is not read; blank lines are passed over.

    Raises:
        DataError: a line has another number of columns, an empty one, or is not UTF-8; file and line are named.
        OSError: the file can't be read.
    """
    found = []
    for number, line in enumerate(split_lines(read_text(Path(path))), start=1):
        if not line.strip():
            continue
        where, columns = f"{path}, line {number}", line.split("\t")
        if len(columns) not in (2, 3):
            raise DataError(f"{where}: a line must have 2 columns with a tab between them, or 3; got {len(columns)}")
        found.append(_pair(where, columns[0], columns[1]))
    if not found:
        raise DataError(f"{path} has no pairs")
    return Pairs.of(found)


def read_parallel(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> Pairs:
    """The pairs of two UTF-8 files, in which each line translates the same line of the other.

    A line that is blank in both is passed over.

    Raises:
        DataError: a file has more lines, a line is blank in one file only, or is not UTF-8; file and line are named.
        OSError: a file can't be read.
    """
    sides = [split_lines(read_text(Path(path))) for path in (source, target)]
    if len(sides[0]) != len(sides[1]):
        counts = " and ".join(f"{path} has {len(lines)}" for path, lines in zip((source, target), sides, strict=True))
        raise DataError(f"both files must have a line for each pair; {counts}")
    found = [
        _pair(f"{source if not one.strip() else target}, line {number}", one, other)
        for number, (one, other) in enumerate(zip(*sides, strict=True), start=1)
        if one.strip() or other.strip()
    ]
    if not found:
        raise DataError(f"{source} has no pairs")
    return Pairs.of(found)


def _pair(where: str, source: str, target: str) -> tuple[str, str]:
    if not source.strip() or not target.strip():
        raise DataError(f"{where}: a sentence is empty")
    return source.strip(), target.strip()


def split_pairs(pairs: Pairs, *, seed: int = 0) -> dict[str, Pairs]:
    """70 % of the source sentences for "train", 15 % each for "validation" and "test", all with their translations.

    No source sentence is in two parts, whatever the number of its translations.

    Raises:
        ValueError: there are too few sentences for three parts.
    """
    sentences = sorted(set(pairs.source))
    order = np.random.default_rng(seed).permutation(len(sentences))
    held = round(0.15 * len(sentences))
    if held < 1 or len(sentences) - 2 * held < 1:
        raise ValueError(f"{len(sentences)} different source sentences are too few for three parts")
    part_of = {}
    for place, i in enumerate(order):
        part_of[sentences[i]] = "test" if place < held else "validation" if place < 2 * held else "train"
    parts: dict[str, list[tuple[str, str]]] = {"train": [], "validation": [], "test": []}
    for pair in pairs:
        parts[part_of[pair[0]]].append(pair)
    return {name: Pairs.of(members) for name, members in parts.items()}


def repeated_sources(part: Pairs, train: Pairs) -> int:
    """How many sentences of a part stand in the training part, too: ready splits may well have some.

    Example:
        >>> repeated_sources(Pairs(("a", "a", "b"), ("x", "y", "z")), Pairs(("a", "c"), ("z", "z")))
        1
    """
    return len(set(part.source) & set(train.source))


class TranslationBatches:
    """Batches of pairs for training a translator: `source`, `source_length`, `inputs`, `targets` and `weights`.

    The inputs are the start id and the translation, the targets the translation and the stop id; the weight is 1
    for each target that is real. Lengths are counted in tokens; of a pair that is longer than the last boundary on
    either side nothing is seen.

    Args:
        pairs: the sentences.
        source_tokenizer, target_tokenizer: of each side.
        batch_size: pairs in a batch.
        bucket_boundaries: lengths that batches are padded to, growing, as pairs of the source's and the target's, the
            latter with the stop id; see `data.buckets.Buckets`.
        seed: of the order; None for an evaluation, which has every pair once.
        shard: (which, of): every process has its own rows of each batch.

    Raises:
        ValueError: no pair is short enough, or an argument is out of its range.
    """

    def __init__(
        self,
        pairs: Pairs,
        source_tokenizer: Tokenizer,
        target_tokenizer: TargetTokenizer,
        *,
        batch_size: int,
        bucket_boundaries: Sequence[tuple[int, int]],
        seed: int | None,
        shard: tuple[int, int] = (0, 1),
    ):
        source = Ragged.of((source_tokenizer.encode(text) for text in pairs.source), np.int32)
        start, stop = [target_tokenizer.start_id], [target_tokenizer.stop_id]
        encoded = (np.concatenate([start, target_tokenizer.encode(text), stop]) for text in pairs.target)
        target = Ragged.of(encoded, np.int32)
        # Of a target, the start id is never predicted and the stop id never read: inputs are one shorter than it.
        longest = bucket_boundaries[-1]
        fits = np.flatnonzero((source.lengths <= longest[0]) & (target.lengths - 1 <= longest[1]))
        if not len(fits):
            raise ValueError(f"no pair has at most {longest} tokens, which is the last of the bucket_boundaries")
        self.left_out = len(pairs) - len(fits)
        rows = {"source": source.take(fits), "target": target.take(fits)}
        sources, targets = zip(*bucket_boundaries, strict=True)
        self.buckets = Buckets(
            rows,
            {},
            batch_size=batch_size,
            bucket_boundaries={"source": sources, "target": tuple(length + 1 for length in targets)},
            seed=seed,
            shard=shard,
        )

    @property
    def batches_per_epoch(self) -> int:
        """Batches until the pairs come again."""
        return self.buckets.batches_per_epoch

    def __len__(self) -> int:
        return len(self.buckets)

    def __getitem__(self, i: int | np.integer) -> Mapping[str, np.ndarray]:
        batch = self.buckets[i]
        target, length = batch["target"], batch["target_length"]
        real = np.arange(target.shape[1] - 1)[None, :] < length[:, None] - 1
        return {
            "source": batch["source"],
            "source_length": batch["source_length"],
            "inputs": target[:, :-1],
            "targets": target[:, 1:],
            "weights": real * batch["weights"][:, None],
        }

    def __repr__(self) -> str:
        return f"TranslationBatches({self.buckets})"
