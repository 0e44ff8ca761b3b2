"""English sentences and their Spanish translations, from Tatoeba by way of ManyThings.org (CC BY 2.0).

https://www.manythings.org/anki/ ; the edition of TensorFlow's and Keras's tutorials.
"""

import dataclasses
import os
import string
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from data.buckets import Buckets
from data.download import Resource, fetch
from data.errors import DataError
from data.ragged import Ragged
from data.tokenizer import TargetTokenizer, Tokenizer

SPA_ENG = Resource(
    name="spa-eng/spa.txt",
    url="https://storage.googleapis.com/download.tensorflow.org/data/spa-eng.zip",
    num_bytes=8_042_772,
    sha256="6ec60e212f812ee3430f7568ea6f33b6fb080e32193c5952e8da0ee8ba45574c",
    member="spa-eng/spa.txt",
    archive_bytes=8_000_000,
)

_MARKS = str.maketrans("", "", string.punctuation + "¿¡")


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Sentences and a translation of each; one that has several translations is there several times.

    They are normalised, in whatever form they are given: two forms of one sentence could be in two parts of a split.
    """

    english: tuple[str, ...]
    spanish: tuple[str, ...]

    def __post_init__(self):
        for side in ("english", "spanish"):
            object.__setattr__(self, side, tuple(map(normalise, getattr(self, side))))

    def __len__(self) -> int:
        return len(self.english)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return zip(self.english, self.spanish, strict=True)

    def references(self) -> dict[str, list[str]]:
        """All translations of each sentence."""
        found: dict[str, list[str]] = {}
        for english, spanish in self:
            found.setdefault(english, []).append(spanish)
        return found

    def standardised(self) -> "Pairs":
        """All in lower case and without punctuation, the opening marks of Spanish included."""
        english, spanish = (tuple(map(standardise, side)) for side in (self.english, self.spanish))
        return Pairs(english, spanish)


def normalise(sentence: str) -> str:
    """A sentence in Unicode's normal form C, where letter and accent are one character if there is one."""
    return unicodedata.normalize("NFC", sentence)


def standardise(sentence: str) -> str:
    """A sentence in lower case without punctuation, in normal form C.

    Example:
        >>> standardise("¿Qué es eso?")
        'qué es eso'
    """
    # Once before, for the marks that have another form, and once after, for what a mark kept apart.
    return normalise(" ".join(normalise(sentence).lower().translate(_MARKS).split()))


def load_pairs(
    path: str | os.PathLike[str] | None = None, data_dir: Path | None = None, *, offline: bool = False
) -> Pairs:
    """Sentence pairs: the 118,964 of the tutorials, or those of a file of one's own.

    Args:
        path: a UTF-8 file with a pair in each line, English before a tab and the translation after it (a third
            column, which newer editions have, is not read; blank lines are passed over); None for the tutorials'
            own, downloaded once.
        data_dir: where to look for that first, see `data.download.fetch`.
        offline: don't use the network.

    Raises:
        DataError: a line has another number of columns, an empty one, or is not UTF-8; file and line are named.
        OSError: the file can't be read.
        DownloadError: the pairs can't be had.
    """
    file = fetch(SPA_ENG, data_dir, offline=offline) if path is None else Path(path)
    english, spanish = [], []
    # Of bytes, `splitlines` knows the same three ends as `data.text.split_lines`.
    for number, line in enumerate(file.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        where = f"{file}, line {number}"
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{where}: byte 0x{line[error.start]:02x} is not UTF-8 ({error.reason})") from error
        if not text.strip():
            continue
        columns = text.split("\t")
        if len(columns) not in (2, 3):
            raise DataError(f"{where}: a line must have 2 columns with a tab between them, or 3; got {len(columns)}")
        if not columns[0].strip() or not columns[1].strip():
            raise DataError(f"{where}: a sentence is empty")
        english.append(columns[0].strip())
        spanish.append(columns[1].strip())
    if not english:
        raise DataError(f"{file} has no pairs")
    return Pairs(tuple(english), tuple(spanish))


def split_pairs(pairs: Pairs, *, seed: int = 0) -> dict[str, Pairs]:
    """70 % of the English sentences for "train", 15 % each for "validation" and "test", all with their translations.

    No sentence is in two parts, whatever the number of its translations.

    Raises:
        ValueError: there are too few sentences for three parts.
    """
    sentences = sorted(set(pairs.english))
    order = np.random.default_rng(seed).permutation(len(sentences))
    held = round(0.15 * len(sentences))
    if held < 1 or len(sentences) - 2 * held < 1:
        raise ValueError(f"{len(sentences)} different English sentences are too few for three parts")
    part_of = {}
    for place, i in enumerate(order):
        part_of[sentences[i]] = "test" if place < held else "validation" if place < 2 * held else "train"
    parts: dict[str, list[tuple[str, str]]] = {"train": [], "validation": [], "test": []}
    for pair in pairs:
        parts[part_of[pair[0]]].append(pair)
    return {name: Pairs(*map(tuple, zip(*members, strict=True))) for name, members in parts.items()}


class TranslationBatches:
    """Batches of pairs for training a translator: `source`, `source_length`, `inputs`, `targets` and `weights`.

    The inputs are the start id and the translation, the targets the translation and the stop id; the weight is 1
    for each target that is real. Lengths are counted in tokens; of a pair that is longer than the last boundary on
    either side nothing is seen.

    Args:
        pairs: the sentences.
        source_tokenizer, target_tokenizer: of English and of Spanish.
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
        source = Ragged.of((source_tokenizer.encode(text) for text in pairs.english), np.int32)
        start, stop = [target_tokenizer.start_id], [target_tokenizer.stop_id]
        encoded = (np.concatenate([start, target_tokenizer.encode(text), stop]) for text in pairs.spanish)
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
