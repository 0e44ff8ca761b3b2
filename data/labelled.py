"""Texts with a class each, from anybody's files: `.tsv`, `.csv`, `.jsonl`, or a folder for each class."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int, Int32
from tqdm import tqdm

from data.array_cache import cached_arrays
from data.errors import DataError
from data.labelled_files import Columns, read_rows
from data.ragged import Ragged
from data.tokenizer import Tokenizer


@dataclass(frozen=True)
class LabelledTexts:
    """Texts and the class of each; item i is text i.

    Attributes:
        text: the texts in UTF-8.
        labels: the class of each, a place in `class_names`.
        class_names: numbers by their size, then all others by the alphabet.

    Example:
        >>> texts = LabelledTexts.of(["Bravo!", "Boo.", "Oh."], ["good", "bad", "bad"])
        >>> texts[1], texts.labels.tolist(), texts.counts()
        ('Boo.', [1, 0, 0], {'bad': 2, 'good': 1})
    """

    text: Ragged
    labels: Int32[np.ndarray, " texts"]
    class_names: tuple[str, ...]

    @classmethod
    def of(
        cls, texts: Iterable[str], names: Sequence[str], class_names: tuple[str, ...] | None = None
    ) -> "LabelledTexts":
        """From texts and the names of their classes; without `class_names`, the classes are those that occur.

        Raises:
            ValueError: there is no text, or not one name for each, or a name is none of `class_names`, or a text has
                a lone surrogate, which has no UTF-8.
        """
        text = Ragged.of((np.frombuffer(text.encode("utf-8"), np.uint8) for text in texts), np.uint8)
        if len(text) != len(names):
            raise ValueError(f"names must be one for each of the {len(text)} texts; got {len(names)}")
        classes = _in_order(set(names)) if class_names is None else class_names
        number = {name: i for i, name in enumerate(classes)}
        if unknown := set(names) - set(number):
            raise ValueError(f"names must be among {', '.join(classes)}; got {min(unknown)!r}")
        return cls(text, np.array([number[name] for name in names], np.int32), classes)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int | np.integer) -> str:
        return self.text[i].tobytes().decode("utf-8")

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))

    def take(self, rows: Int[np.ndarray, " taken"]) -> "LabelledTexts":
        """Some of the texts, in the order asked for."""
        return LabelledTexts(self.text.take(rows), self.labels[rows], self.class_names)

    def counts(self) -> dict[str, int]:
        """How many texts there are of each class."""
        return dict(zip(self.class_names, self._counts().tolist(), strict=True))

    def class_weights(self) -> Float32[np.ndarray, " classes"]:
        """A weight for each class with which all classes together count alike, and texts 1 on average.

        As `weights` beside the labels they reach every loss of `training`: give `data.buckets.Buckets` the numbers
        `{"labels": texts.labels, "weights": texts.class_weights()[texts.labels]}`.

        Raises:
            ValueError: a class has no text.

        Example:
            >>> LabelledTexts.of("abcde", ["x", "y", "y", "y", "y"]).class_weights().tolist()
            [2.5, 0.625]
        """
        counts = self._counts()
        if not counts.all():
            raise ValueError(f"class {self.class_names[counts.argmin()]!r} has no text to weigh")
        return (len(self) / (len(counts) * counts)).astype(np.float32)

    def _counts(self) -> Int[np.ndarray, " classes"]:
        return np.bincount(self.labels, minlength=len(self.class_names))

    def __repr__(self) -> str:
        return f"{len(self):,} texts: " + ", ".join(f"{name} {count:,}" for name, count in self.counts().items())


@dataclass(frozen=True)
class LabelledCorpus:
    """Labelled texts in three parts, all of the same classes.

    Attributes:
        train, validation, test: what to train on, to choose the best model by, and to measure that one with.
        duplicates: number of test texts that stand word for word in the training part, too. They are left in.
    """

    train: LabelledTexts
    validation: LabelledTexts
    test: LabelledTexts

    @property
    def duplicates(self) -> int:
        known = set(_contents(self.train))
        return sum(text in known for text in _contents(self.test))

    def few(self, most: int) -> "LabelledCorpus":
        """At most so many texts of each part, or one of each class: enough to see that everything works.

        They are spread evenly over the part, or over the texts of each class where one would be lost otherwise.
        """
        return LabelledCorpus(*(_few(part, most) for part in (self.train, self.validation, self.test)))


def load_labelled(
    train: str | os.PathLike[str],
    validation: str | os.PathLike[str] | None = None,
    test: str | os.PathLike[str] | None = None,
    *,
    columns: Columns = ("text", "label"),
    share: float = 0.15,
    seed: int = 0,
) -> LabelledCorpus:
    """A corpus from one's own files: with ready parts, or with parts held out of the training file.

    Args:
        train: a file or folder, see `read_labelled`; the classes are those that it has.
        validation, test: likewise. One that is not given is held out of the training file, see `hold_out`.
        columns: where text and class stand.
        share: of the training file, to be held out for each part that is not given; in (0, 0.5).
        seed: which texts.

    Raises:
        ValueError: an argument is out of its range.
        DataError: a file is not what it should be, or the training file has one class only, or too few texts of a
            class to hold any out.
        OSError: a file can't be read.
    """
    if not 0 < share < 0.5:
        raise ValueError(f"share must be in (0, 0.5); got {share}")
    whole = read_labelled(train, columns=columns)
    if len(whole.class_names) == 1:
        (only,) = whole.class_names
        raise DataError(f"{train}: all texts are of one class, {only!r}; there must be at least two")
    count = round(share * len(whole))
    ready = {"columns": columns, "class_names": whole.class_names}
    given = None if validation is None else read_labelled(validation, **ready)
    rest, tested = whole, None if test is None else read_labelled(test, **ready)
    try:
        if tested is None:
            rest, tested = hold_out(rest, count, seed=seed, apart_from=given)
        if given is None:
            rest, given = hold_out(rest, count, seed=seed + 1, apart_from=tested)
    except ValueError as error:
        why = str(error).partition(", and ")[2]  # of which class there are too few; nobody here gave a count
        raise DataError(
            f"{train}: too few texts to hold some out of each class: {why}; give more, or files of their own for "
            "--validation and --test"
        ) from None
    return LabelledCorpus(rest, given, tested)


def hold_out(
    texts: LabelledTexts, count: int, *, seed: int, apart_from: LabelledTexts | None = None
) -> tuple[LabelledTexts, LabelledTexts]:
    """What stays, and what is held out: about `count` texts, of each class its share and at least one.

    Only a text that occurs once is held out, and that `apart_from` does not have: so none of it is anywhere else.

    Raises:
        ValueError: a class has too few such texts, or none would stay.

    Example:
        >>> texts = LabelledTexts.of("abcdefgh", ["x", "y"] * 4)
        >>> rest, held_out = hold_out(texts, 4, seed=0)
        >>> rest.counts(), held_out.counts(), sorted([*rest, *held_out])
        ({'x': 2, 'y': 2}, {'x': 2, 'y': 2}, ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'])
    """
    every = list(_contents(texts))
    times, elsewhere = Counter(every), set(() if apart_from is None else _contents(apart_from))
    alone = np.array([times[text] == 1 and text not in elsewhere for text in every])
    sizes = np.array(list(texts.counts().values()))
    ends = np.rint(count * np.cumsum(sizes) / len(texts)).astype(int)
    rng, chosen = np.random.default_rng(seed), []
    for label, part in enumerate(np.maximum(np.diff(ends, prepend=0), 1).tolist()):
        candidates = np.flatnonzero(alone & (texts.labels == label))
        if part > len(candidates) or part >= sizes[label]:
            raise ValueError(
                f"count must leave something to train on; got {count} of {len(texts)} texts, and of class "
                f"{texts.class_names[label]!r} there are {sizes[label]}, of which {len(candidates)} occur only once"
            )
        chosen.append(rng.choice(candidates, part, replace=False))
    held_out = np.sort(np.concatenate(chosen))
    return texts.take(np.setdiff1d(np.arange(len(texts)), held_out)), texts.take(held_out)


def read_labelled(
    path: str | os.PathLike[str],
    *,
    columns: Columns = ("text", "label"),
    class_names: tuple[str, ...] | None = None,
) -> LabelledTexts:
    """Labelled texts of a file or folder; what may be in it, `data.labelled_files.read_rows` says.

    Args:
        path: a file that ends with `.tsv`, `.csv` or `.jsonl`, or a folder that holds one of `.txt` files for each
            class.
        columns: of text and class: their names, or numbers from 0 where the first row does not name them.
        class_names: the classes that there may be; None for all that occur.

    Raises:
        ValueError: the file is of no such kind, or the columns are no columns of that kind.
        DataError: it is not what it should be; file, line and what is allowed are named.
        OSError: it can't be read.
    """
    texts, names = [], []
    for where, text, name in read_rows(Path(path), columns):
        if not text.strip() or not name:
            raise DataError(f"{where}: the {'class' if text.strip() else 'text'} is empty")
        if class_names is not None and name not in class_names:
            raise DataError(f"{where}: class {name!r} is none of those to train on, {', '.join(class_names)}")
        texts.append(text)
        names.append(name)
    if not texts:
        raise DataError(f"{path} has no texts")
    return LabelledTexts.of(texts, names, class_names)


def tokenised(texts: LabelledTexts, tokenizer: Tokenizer) -> Ragged:
    """The ids of each text, made once and then kept in the cache."""
    source = hashlib.sha256(texts.text.values.tobytes() + texts.text.offsets.tobytes()).hexdigest()
    vocabulary = hashlib.sha256(repr(sorted(tokenizer.to_json().items())).encode()).hexdigest()

    def make() -> dict[str, np.ndarray]:
        shown = tqdm(texts, desc="tokenising", total=len(texts), unit=" texts", disable=None, leave=False)
        ids = Ragged.of((tokenizer.encode(text) for text in shown), np.int32)
        return {"values": ids.values, "offsets": ids.offsets}

    arrays = cached_arrays("tokens", {"tokens": 1, "source": source, "vocabulary": vocabulary}, make)
    return Ragged(arrays["values"], arrays["offsets"])


def _few(texts: LabelledTexts, most: int) -> LabelledTexts:
    few = texts.take(np.arange(0, len(texts), -(-len(texts) // most)))
    classes, firsts = np.unique(texts.labels, return_index=True)
    if len(np.unique(few.labels)) == len(classes):
        return few
    by_class = np.argsort(texts.labels, kind="stable")  # which spreads them over each class
    spread = by_class[np.linspace(0, len(texts) - 1, max(most - len(classes), 0)).astype(int)]
    return texts.take(np.union1d(firsts, spread))


def _in_order(names: Iterable[str]) -> tuple[str, ...]:
    def place(name: str) -> tuple[int, int, str]:
        # Python reads no numbers of thousands of digits; what is longer than this is an identifier at best.
        return (0, int(name), name) if name.isdecimal() and len(name) <= 1_000 else (1, 0, name)

    return tuple(sorted(names, key=place))


def _contents(texts: LabelledTexts) -> Iterator[bytes]:
    return (texts.text[i].tobytes() for i in range(len(texts)))
