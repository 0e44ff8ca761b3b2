"""Keras's form of IMDB: the same reviews as numbers of words, which rank by how often they occur.

`imdb.npz` and `imdb_word_index.json` of https://storage.googleapis.com/tensorflow/tf-keras-datasets/.
"""

import hashlib
import io
import json
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from data.array_cache import cached_arrays
from data.errors import DataError
from data.imdb import CLASS_NAMES, with_validation
from data.labelled import LabelledCorpus, LabelledTexts
from data.ragged import Ragged

SHUFFLE_SEED = 113  # Keras's own, of both parts
UNUSED = "\0"
"""Stands for id 3, which Keras gives to no word: a word that no text has."""

_MOST_BYTES, _MOST_INSTRUCTIONS = 2**25, 2**24  # of a part, whose file has 14 MB and whose pickle 6 million


def load_keras_imdb(
    folder: str | os.PathLike[str], *, unpickle: Callable[..., Any], validation: int = 2_500, seed: int = 0
) -> tuple[LabelledCorpus, list[str]]:
    """The reviews in Keras's words and in Keras's order, and the words in the order of Keras's ids from 3 on.

    The text of a review is its words with spaces between them, also the rare ones, so that it can be read.
    `WordTokenizer(words[: n - 3])` makes of it the ids of Keras's `load_data(num_words=n, start_char=None)`.

    Args:
        folder: holds `imdb.npz` and `imdb_word_index.json`.
        unpickle: reads the lists of ids, which NumPy keeps as a pickle: called with its bytes and, by name,
            `max_instructions`. `zoo.pretrained.inert_pickle.read_inert_pickle` runs nothing of it.
        validation: number of reviews to take out of the training part, as in `data.imdb.load_imdb`.
        seed: which ones.

    Raises:
        ValueError: `validation` is odd, or not in 2..20,000.
        DataError: a file is damaged, or not what it should be.
        OSError: a file can't be read.
    """
    words = _read_words(Path(folder) / "imdb_word_index.json")
    file = Path(folder) / "imdb.npz"
    with open(file, "rb") as content:
        key = {"keras imdb": 1, "sha256": hashlib.file_digest(content, "sha256").hexdigest()}
    arrays = cached_arrays("keras-imdb", key, lambda: _read_arrays(file, unpickle))
    parts = {}
    for part in ("train", "test"):
        ids = Ragged(arrays[f"{part}_ids"], arrays[f"{part}_offsets"])
        if not 1 <= ids.values.min() <= ids.values.max() < len(words):
            raise DataError(f"{file}: an id of {part} is not one of the {len(words) - 1} words of the index")
        texts = (" ".join([words[i] for i in row]) for row in ids)
        text = Ragged.of((np.frombuffer(text.encode(), np.uint8) for text in texts), np.uint8)
        parts[part] = LabelledTexts(text, np.asarray(arrays[f"{part}_labels"]), CLASS_NAMES)
    return with_validation(parts["train"], parts["test"], validation, seed), words


def _read_words(file: Path) -> list[str]:
    """Each word at its rank, from 1."""
    try:
        ranks = dict(json.loads(file.read_text(encoding="utf-8")))
        words = sorted(ranks, key=ranks.__getitem__)
        if not words or [ranks[word] for word in words] != list(range(1, len(words) + 1)):
            raise ValueError("its words are not numbered from 1")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{file} is not Keras's index of words: {error}") from error
    return [UNUSED, *(_one_word(word, rank) for rank, word in enumerate(words, start=1))]


def _one_word(word: str, rank: int) -> str:
    """A word that a text gives back. Some of Keras's have white space or a capital, left from other encodings."""
    shown = "".join("\ufffd" if c.isspace() or c != c.lower() else c for c in word)
    return word if shown == word else f"{shown}{rank}"


def _read_arrays(file: Path, unpickle: Callable[..., Any]) -> dict[str, np.ndarray]:
    """Ids, where each review's begin, and labels of both parts, shuffled as Keras does."""
    arrays = {}
    rng = np.random.RandomState(SHUFFLE_SEED)
    try:
        with zipfile.ZipFile(file) as archive:
            for part in ("train", "test"):
                labels = _read_member(archive, f"y_{part}.npy", unpickle)
                reviews = _read_member(archive, f"x_{part}.npy", unpickle)
                if labels.shape != reviews.shape or labels.ndim != 1 or not np.isin(labels, (0, 1)).all():
                    raise ValueError(f"{part} has not one label, 0 or 1, for each review")
                order = np.arange(len(labels))
                rng.shuffle(order)
                ids = Ragged.of([reviews[i] for i in order], np.int32)
                arrays |= {f"{part}_ids": ids.values, f"{part}_offsets": ids.offsets}
                arrays[f"{part}_labels"] = labels[order].astype(np.int32)
    except (ValueError, TypeError, OverflowError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{file} is not Keras's imdb.npz: {error}") from error
    return arrays


def _read_member(archive: zipfile.ZipFile, name: str, unpickle: Callable[..., Any]) -> Shaped[np.ndarray, "..."]:
    """An array of numbers as NumPy reads it; one of objects by `unpickle`."""
    if archive.getinfo(name).file_size > _MOST_BYTES:
        raise ValueError(f"{name} is larger than it can be")
    with archive.open(name) as member:
        content = io.BytesIO(member.read(_MOST_BYTES))
    if np.lib.format.read_magic(content) != (1, 0):
        raise ValueError(f"{name} is not of NumPy's format 1.0")
    shape, _, dtype = np.lib.format.read_array_header_1_0(content)
    if dtype.hasobject:
        array = unpickle(content.read(), max_instructions=_MOST_INSTRUCTIONS)
    else:
        content.seek(0)
        array = np.load(content, allow_pickle=False)
    if not isinstance(array, np.ndarray) or array.shape != shape:
        raise ValueError(f"{name} holds something else than its header says")
    return array
