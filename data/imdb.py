"""IMDB's Large Movie Review Dataset: 50,000 reviews, half for training, half for the test; 1 = positive.

Maas et al., "Learning Word Vectors for Sentiment Analysis", ACL 2011;
https://ai.stanford.edu/~amaas/data/sentiment/
"""

import hashlib
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from data.array_cache import cached_arrays
from data.download import Resource, data_folder, fetch
from data.errors import DataError
from data.labelled import LabelledCorpus, LabelledTexts, hold_out
from data.ragged import Ragged

ARCHIVE = Resource(
    name="aclImdb_v1.tar.gz",
    url="https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",
    num_bytes=84_125_825,
    sha256="c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe",
)
CLASS_NAMES = ("negative", "positive")

_REVIEW = re.compile(r"aclImdb/(train|test)/(neg|pos)/(\d{1,6})_(\d{1,2})\.txt")
_EACH = 12_500  # reviews of each part and class
_MOST_MEMBERS, _MOST_BYTES, _MOST_TOTAL = 110_000, 2**20, 400 * 2**20

Found = tuple[tuple[str, str, int], bytes]
"""Part, class and number of a review, and its text."""


def load_imdb(
    data_dir: str | os.PathLike[str] | None = None,
    *,
    validation: int = 2_500,
    seed: int = 0,
    offline: bool = False,
) -> LabelledCorpus:
    """The reviews: from an unpacked `aclImdb` folder in the data folder, or from the archive, downloaded once.

    Either is read once into the cache, which both fill with the same arrays. Reviews are as a person would type them:
    with line breaks where the files have `<br />`. 123 of the test stand word for word in the training part, too.

    Args:
        data_dir: a folder with `aclImdb/` or `aclImdb_v1.tar.gz`; None takes ZOO_DATA_DIR, if set.
        validation: number of reviews to take out of the training part, half of each class; even.
        seed: which ones.
        offline: never use the network.

    Raises:
        ValueError: `validation` is odd, or not in 2..20,000.
        DataError: a folder or archive is not the whole data set, or is not safe to read.
        DownloadError: the archive can't be had.
    """
    _check_validation(validation)
    own = data_folder(data_dir)
    folder = None if own is None else own / "aclImdb"
    if folder is not None and folder.is_dir():
        parts = _arrays({"imdb": "folder", "listing": _listing(folder)}, lambda: read_folder(folder), folder)
    else:
        archive = fetch(ARCHIVE, own, offline=offline)
        parts = _arrays({"imdb": "archive", "sha256": ARCHIVE.sha256}, lambda: read_archive(archive), archive)
    return with_validation(parts["train"], parts["test"], validation, seed)


def with_validation(train: LabelledTexts, test: LabelledTexts, validation: int, seed: int) -> LabelledCorpus:
    """The corpus of two parts, of the first of which `load_imdb`'s validation part is taken out."""
    _check_validation(validation)
    rest, held_out = hold_out(train, validation, seed=seed, apart_from=test)
    return LabelledCorpus(rest, held_out, test)


def _check_validation(validation: int) -> None:
    if validation % 2 or not 2 <= validation <= 20_000:
        raise ValueError(f"validation must be an even number in 2..20000; got {validation}")


def read_folder(folder: Path) -> Iterator[Found]:
    """The reviews of an unpacked `aclImdb`."""
    for part, label in _PARTS:
        for path in (folder / part / label).iterdir():
            if found := _REVIEW.fullmatch(f"aclImdb/{part}/{label}/{path.name}"):
                yield (part, label, int(found[3])), path.read_bytes()


def read_archive(path: Path) -> Iterator[Found]:
    """The reviews of the archive, read as a stream: nothing is ever written under a name that it contains.

    Raises:
        DataError: a member is not a plain file or folder below `aclImdb/`, or something is larger than it can be.
    """
    total = 0
    try:
        with tarfile.open(path, "r|gz") as archive:
            for number, member in enumerate(archive, start=1):
                inside = member.name == "aclImdb" or member.name.startswith("aclImdb/")
                if number > _MOST_MEMBERS:
                    raise DataError(f"{path} has more than {_MOST_MEMBERS} members")
                if not inside or ".." in member.name.split("/") or not (member.isfile() or member.isdir()):
                    raise DataError(f"{path}: member {member.name!r} is not a plain file below aclImdb/")
                found = _REVIEW.fullmatch(member.name)
                if found is None or not member.isfile():
                    continue
                total += member.size
                if member.size > _MOST_BYTES or total > _MOST_TOTAL:
                    raise DataError(f"{path}: member {member.name!r} makes it larger than the data set can be")
                file = archive.extractfile(member)
                assert file is not None
                yield (found[1], found[2], int(found[3])), file.read()
    except DataError:
        raise
    except (tarfile.TarError, EOFError, OSError, ValueError, TypeError, AttributeError, zlib.error) as error:
        # TypeError: tarfile asks for the code of a character that a cut header lacks. AttributeError: in Python
        # 3.11.2 it asks for an exception that it has not set.
        raise DataError(f"{path} is not a whole archive: {error}") from error


_PARTS: tuple[tuple[Literal["train", "test"], str], ...] = tuple(
    (part, label) for part in ("train", "test") for label in ("neg", "pos")
)


def _arrays(key: dict[str, str], read: Callable[[], Iterator[Found]], where: Path) -> dict[str, LabelledTexts]:
    """Both parts, from the cache or from the source: negative reviews first, each class by its numbers."""
    arrays = cached_arrays("imdb", {**key, "version": 2}, lambda: collect(read(), where, _EACH))
    return {
        part: LabelledTexts(
            Ragged(arrays[f"{part}_text"], arrays[f"{part}_offsets"]),
            np.asarray(arrays[f"{part}_labels"]),
            CLASS_NAMES,
        )
        for part in ("train", "test")
    }


def collect(found: Iterator[Found], where: Path, each: int) -> dict[str, np.ndarray]:
    """The arrays of both parts, of which each class has `each` reviews, numbered from 0.

    Raises:
        DataError: there are more or fewer, or one is not UTF-8.
    """
    texts: dict[tuple[str, str], dict[int, bytes]] = {pair: {} for pair in _PARTS}
    for (part, label, number), text in tqdm(found, desc="reading IMDB", total=4 * each, disable=None, leave=False):
        try:
            text.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{where}: review {part}/{label}/{number} is not UTF-8 ({error.reason})") from None
        texts[part, label][number] = text
    arrays: dict[str, np.ndarray] = {}
    for part in ("train", "test"):
        rows: list[UInt8[np.ndarray, " bytes"]] = []
        for label in ("neg", "pos"):
            numbered = texts[part, label]
            if sorted(numbered) != list(range(each)):
                raise DataError(
                    f"{where} must have {each} reviews in {part}/{label}, numbered from 0; it has {len(numbered)}. "
                    "Unpack or download it again"
                )
            rows += [np.frombuffer(numbered[i].replace(b"<br />", b"\n"), np.uint8) for i in range(each)]
        ragged = Ragged.of(rows, np.uint8)
        arrays |= {f"{part}_text": ragged.values, f"{part}_offsets": ragged.offsets}
        arrays[f"{part}_labels"] = np.repeat(np.array([0, 1], np.int32), each)
    return arrays


def _listing(folder: Path) -> str:
    """A fingerprint of the names, sizes and times of a folder's reviews, in a tenth of a second."""
    digest = hashlib.sha256(str(folder.resolve()).encode())
    for part, label in _PARTS:
        if not (folder / part / label).is_dir():
            raise DataError(f"{folder} has no folder {part}/{label}: unpack the archive again")
        with os.scandir(folder / part / label) as entries:
            for line in sorted(f"{e.name} {(s := e.stat()).st_size} {s.st_mtime_ns}" for e in entries):
                digest.update(line.encode())
    return digest.hexdigest()
