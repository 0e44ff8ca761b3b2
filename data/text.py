"""Plain text: a file or a named text, its lines, its held-out tail."""

import os
import re
import sys
from pathlib import Path
from typing import TypeVar

import numpy as np

from data.download import Resource, fetch
from data.errors import DataError

TINY_SHAKESPEARE = Resource(
    name="texts/tinyshakespeare/input.txt",
    url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    num_bytes=1_115_394,
    sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    local=("texts/tinyshakespeare.txt",),
)

# Franz Kafka, "Metamorphosis", translated by David Wyllie: Project Gutenberg's eBook 5200
# (https://www.gutenberg.org/ebooks/5200), under the licence printed in the file. Gutenberg replaces its
# files as it corrects them, so a pinned one comes from a commit that holds this edition unchanged.
METAMORPHOSIS = Resource(
    name="texts/metamorphosis_pg5200.txt",
    url="https://raw.githubusercontent.com/sd17spring/TextMining/"
    "f4a65261c2fb802dd580424b583429d8941f0a96/metamorphosis.txt",
    num_bytes=139_056,
    sha256="8d2343899ad9b63217db2a9e335847794bc18d25dcc8a97e5af388224e722287",
)

NAMED = {"tinyshakespeare": TINY_SHAKESPEARE, "metamorphosis": METAMORPHOSIS}

_SUFFIX = re.compile(r"\.[A-Za-z]\w{0,9}$")

TextOrIds = TypeVar("TextOrIds", np.ndarray, str)


def load_text(
    name_or_path: str | os.PathLike[str], data_dir: str | os.PathLike[str] | None = None, *, offline: bool = False
) -> str:
    """A text: one of the named ones, or any UTF-8 file.

    "tinyshakespeare" is the whole file; "metamorphosis" is the story alone, without title page and licence.
    A byte order mark at the start is dropped, and lines that end with CR LF or CR end with LF afterwards;
    everything else is kept, also NUL.

    Args:
        name_or_path: a name, or a path (write `./tinyshakespeare` for a file of that name).
        data_dir: where to look for a named text first, see `data.download.fetch`.
        offline: don't use the network for a named text.

    Raises:
        DataError: the file is empty or not UTF-8 (file and line are named).
        OSError: the file can't be read.
        DownloadError: the named text can't be had.
    """
    if isinstance(name_or_path, str) and (resource := NAMED.get(name_or_path)) is not None:
        text = read_text(fetch(resource, data_dir, offline=offline))
        return _story(text) if resource is METAMORPHOSIS else text
    if not Path(name_or_path).exists():
        raise FileNotFoundError(
            f"no file {os.fspath(name_or_path)!r}, and no text of that name; there are {', '.join(NAMED)}"
        )
    return read_text(Path(name_or_path))


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a UTF-8 file, as `load_text` gives it, which has the errors."""
    content = Path(path).read_bytes()
    if not content:
        raise DataError(f"{path} is empty")
    text = _decoded(content, str(path))
    if not text:
        raise DataError(f"{path} is empty but for a byte order mark")
    return text


def _decoded(content: bytes, where: str) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # error.object is what is left after a byte order mark; its lines are the file's.
        line = 1 + len(re.findall(rb"\r\n|\r|\n", error.object[: error.start]))
        raise DataError(
            f"{where}, line {line}: byte 0x{error.object[error.start]:02x} is not UTF-8 ({error.reason})"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def given_lines(argument: str) -> list[str]:
    """The lines that an argument stands for: those of a file, of the standard input ("-"), or itself as the only one.

    Raises:
        DataError: the file is empty, or it or the input is not UTF-8.
        OSError: there is no such file, where the argument looks like a path, or it can't be read. A path begins with
            /, ./, ../ or ~, or is one word with a suffix, or lies in a folder that there is.
    """
    if argument == "-":
        buffer = getattr(sys.stdin, "buffer", None)  # a stream of text may stand in its place, as in a notebook
        text = (
            sys.stdin.read().removeprefix("\ufeff") if buffer is None else _decoded(buffer.read(), "standard input")
        )
        return split_lines(text)
    if os.path.isfile(argument):  # unlike `Path.is_file`, it knows that a long sentence names no file
        return split_lines(load_text(Path(argument)))
    begins = re.match(r"/|\.\.?/|~", argument) or os.path.isabs(argument)
    is_word = len(argument.split()) == 1 and _SUFFIX.search(argument.strip())
    parent = os.path.dirname(argument)
    if begins or is_word or os.path.isdir(argument) or (parent and os.path.isdir(parent)):
        raise FileNotFoundError(
            f"no file {argument!r}; what only looks like a path can be given on standard input, -"
        )
    return [argument]


def split_lines(text: str) -> list[str]:
    r"""The lines of a text without their ends: LF, CR LF or CR.

    `str.splitlines` also ends lines at form feeds, U+0085, U+2028 and others, which no editor numbers as lines, and
    so loses step with whoever counts them.

    Example:
        >>> split_lines("one\n\ntwo\u2028and still two\r\n")
        ['one', '', 'two\u2028and still two']
    """
    lines = re.split(r"\r\n|\r|\n", text)
    return lines if lines[-1] else lines[:-1]  # what ends the last line begins no other


def join_lines(text: str) -> str:
    r"""A text in one line, whoever reads it: a space in the place of everything that `str.splitlines` ends lines at.

    Example:
        >>> join_lines("one\r\ntwo\u2028three")
        'one two three'
    """
    return re.sub(r"\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]", " ", text)


def _story(book: str) -> str:
    """The story of a Gutenberg book: from its first words to its last, and the line's end."""
    first, last = "One morning, when Gregor Samsa", "stretch out her young body.\n"
    return book[book.index(first) : book.index(last) + len(last)]


def split_tail(sequence: TextOrIds, fraction: float = 0.1, *, most: int | None = None) -> tuple[TextOrIds, TextOrIds]:
    """Splits a text or its ids into what to train on and a held-out tail.

    The tail has `fraction` of the entries, rounded up, or `most` if that is fewer: a tenth of gigabytes takes hours
    to evaluate on.

    Args:
        sequence: a text, or a one-dimensional array.
        fraction: of the whole, in (0, 1).
        most: of the tail, at least 1; None for no limit.

    Raises:
        ValueError: the fraction is not in (0, 1), `most` is less than 1, or a part would be empty.

    Example:
        >>> split_tail("abcdefghij", 0.25)
        ('abcdefg', 'hij')
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must be in (0, 1); got {fraction}")
    if most is not None and most < 1:
        raise ValueError(f"most must be at least 1 or None; got {most}")
    cut = max(int(len(sequence) * (1 - fraction)), 0 if most is None else len(sequence) - most)
    if not 0 < cut < len(sequence):
        raise ValueError(f"a sequence of length {len(sequence)} has no two parts with fraction {fraction}")
    return sequence[:cut], sequence[cut:]
