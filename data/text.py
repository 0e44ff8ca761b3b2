"""Plain text as training data: a file or a named text, its lines, its held-out tail, windows over its ids."""

import os
import re
import sys
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Float32, Int32, Integer

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

TextOrIds = TypeVar("TextOrIds", np.ndarray, str)


def load_text(name_or_path: str | os.PathLike[str], data_dir: Path | None = None, *, offline: bool = False) -> str:
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
        text = _read(fetch(resource, data_dir, offline=offline))
        return _story(text) if resource is METAMORPHOSIS else text
    if not Path(name_or_path).exists():
        raise FileNotFoundError(
            f"no file {os.fspath(name_or_path)!r}, and no text of that name; there are {', '.join(NAMED)}"
        )
    return _read(Path(name_or_path))


def _read(path: Path) -> str:
    content = path.read_bytes()
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
        OSError: there is no such file, where the argument looks like a path, or it can't be read. A path has at least
            two of three signs: no spaces, a slash, a suffix.
    """
    if argument == "-":
        buffer = getattr(sys.stdin, "buffer", None)  # a stream of text may stand in its place, as in a notebook
        text = (
            sys.stdin.read().removeprefix("\ufeff") if buffer is None else _decoded(buffer.read(), "standard input")
        )
        return split_lines(text)
    if os.path.isfile(argument):  # unlike `Path.is_file`, it knows that a long sentence names no file
        return split_lines(load_text(Path(argument)))
    signs = (len(argument.split()) == 1, "/" in argument or os.sep in argument, bool(Path(argument).suffix))
    if sum(signs) >= 2:
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


def split_tail(sequence: TextOrIds, fraction: float = 0.1) -> tuple[TextOrIds, TextOrIds]:
    """Splits a text or its ids into what to train on and a held-out tail.

    The tail has `fraction` of the entries, rounded up.

    Args:
        sequence: a text, or a one-dimensional array.
        fraction: of the whole, in (0, 1).

    Raises:
        ValueError: the fraction is not in (0, 1), or a part would be empty.

    Example:
        >>> split_tail("abcdefghij", 0.25)
        ('abcdefg', 'hij')
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must be in (0, 1); got {fraction}")
    cut = int(len(sequence) * (1 - fraction))
    if not 0 < cut < len(sequence):
        raise ValueError(f"a sequence of length {len(sequence)} has no two parts with fraction {fraction}")
    return sequence[:cut], sequence[cut:]


class Windows:
    """Windows of ids for next-token prediction: item i is `inputs`, the `targets` one further, `weights` 1.

    Windows start at 0, stride, 2 * stride, ... until one reaches the end. With stride 1 (training) every
    possible window is an item, so a shuffle of the items gives random crops; with `stride=length`
    (evaluation) every target is in exactly one window. What the last window lacks is padding on the right, of
    weight 0.

    Args:
        ids: the text's ids, at least two.
        length: of `inputs` and of `targets`, at least 1.
        stride: from the start of a window to that of the next, in 1..length.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> windows = Windows(np.arange(6), length=3, stride=3)
        >>> for i in range(len(windows)):
        ...     print({name: array.tolist() for name, array in windows[i].items()})
        {'inputs': [0, 1, 2], 'targets': [1, 2, 3], 'weights': [1.0, 1.0, 1.0]}
        {'inputs': [3, 4, 0], 'targets': [4, 5, 0], 'weights': [1.0, 1.0, 0.0]}
    """

    def __init__(self, ids: Integer[np.ndarray, " n"], length: int, stride: int = 1):
        if len(ids) < 2:
            raise ValueError(f"ids must have at least 2 entries, one to read and one to predict; got {len(ids)}")
        if length < 1:
            raise ValueError(f"length must be at least 1; got {length}")
        if not 1 <= stride <= length:
            raise ValueError(f"stride must be in 1..{length} (length); got {stride}")
        self.ids = ids
        self.length = length
        self.stride = stride
        self._ones = np.ones(length, np.float32)
        self._ones.flags.writeable = False

    def __len__(self) -> int:
        beyond_the_first = max(0, len(self.ids) - 1 - self.length)
        return 1 + -(-beyond_the_first // self.stride)

    def __getitem__(
        self, index: int | np.integer
    ) -> dict[str, Int32[np.ndarray, " length"] | Float32[np.ndarray, " length"]]:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is out of range: there are windows 0..{len(self) - 1}")
        start = int(index) * self.stride
        ids = self.ids[start : start + self.length + 1].astype(np.int32)
        inputs, targets, weights = ids[:-1], ids[1:], self._ones
        if (missing := self.length - len(inputs)) > 0:
            inputs, targets, weights = (
                np.concatenate([part, np.zeros(missing, part.dtype)])
                for part in (inputs, targets, self._ones[missing:])
            )
        return {"inputs": inputs, "targets": targets, "weights": weights}

    def __repr__(self) -> str:
        return f"Windows({len(self.ids)} ids, length={self.length}, stride={self.stride})"


class Streams:
    """A text as parallel streams, cut into chunks of one shape: item i is a whole batch, chunk i of every stream.

    Stream b is the b-th of `num_streams` equal parts of the text, so a model that hands its state from batch to
    batch reads each of them from end to end. Every target is in exactly one chunk; what the streams lack at the
    end is padding on the right, of weight 0. `reset` is True for the first chunk, before which
    the state is set to zeros.

    With a `part_length` the text is cut into parts first, each of which is read like a text of its own, one after
    the other.

    Args:
        ids: the text's ids, at least two.
        num_streams: rows of a batch, at least 1.
        length: of a chunk, at least 1.
        part_length: targets of a part, the last of which may have fewer; None for the whole text.
        shard: (which, of): every process has its own `num_streams / of` streams.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> streams = Streams(np.arange(8), num_streams=2, length=3)
        >>> for batch in (streams[0], streams[1]):
        ...     print(batch["inputs"].tolist(), batch["targets"].tolist(), batch["reset"])
        [[0, 1, 2], [4, 5, 6]] [[1, 2, 3], [5, 6, 7]] True
        [[3, 0, 0], [0, 0, 0]] [[4, 0, 0], [0, 0, 0]] False
    """

    def __init__(
        self,
        ids: Integer[np.ndarray, " n"],
        num_streams: int,
        length: int,
        *,
        part_length: int | None = None,
        shard: tuple[int, int] = (0, 1),
    ):
        which, of = shard
        if of < 1 or not 0 <= which < of:
            raise ValueError(f"shard must be (which, of) with 0 <= which < of; got {shard}")
        if num_streams % of:
            raise ValueError(f"num_streams must be a multiple of the {of} shards; got {num_streams}")
        if len(ids) < 2:
            raise ValueError(f"ids must have at least 2 entries, one to read and one to predict; got {len(ids)}")
        if length < 1:
            raise ValueError(f"length must be at least 1; got {length}")
        if part_length is not None and part_length < 1:
            raise ValueError(f"part_length must be at least 1, or None; got {part_length}")
        targets = len(ids) - 1
        starts = range(0, targets, part_length or targets)
        parts = [ids[start : start + (part_length or targets) + 1] for start in starts]
        fewest = len(parts[-1]) - 1
        if not 1 <= num_streams <= fewest:
            raise ValueError(f"num_streams must be in 1..{fewest} (the number of targets); got {num_streams}")
        self._ids = ids
        self.num_streams = num_streams
        self.length = length
        self.part_length = part_length
        self.num_ids = len(ids)
        rows = num_streams // of
        mine = slice(which * rows, (which + 1) * rows)
        cut = [_cut_into_chunks(part, num_streams, length) for part in parts]
        self._inputs, self._targets, self._weights = (
            np.concatenate(column, axis=1)[mine] for column in zip(*cut, strict=True)
        )
        chunks = np.array([inputs.shape[1] // length for inputs, _, _ in cut])
        self._chunks = int(chunks.sum())
        self._begins = np.isin(np.arange(self._chunks), chunks.cumsum() - chunks)

    def fingerprint(self) -> tuple[object, ...]:
        """What makes the chunks what they are, for all shards alike."""
        return self._ids, self.num_streams, self.length, self.part_length

    def __len__(self) -> int:
        return self._chunks

    def __getitem__(self, index: int | np.integer) -> dict[str, np.ndarray]:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is out of range: there are chunks 0..{len(self) - 1}")
        chunk = slice(int(index) * self.length, (int(index) + 1) * self.length)
        return {
            "inputs": self._inputs[:, chunk],
            "targets": self._targets[:, chunk],
            "weights": self._weights[:, chunk],
            "reset": np.array(self._begins[index]),
        }

    def __repr__(self) -> str:
        part = "" if self.part_length is None else f", part_length={self.part_length}"
        return f"Streams({self.num_ids} ids, num_streams={self.num_streams}, length={self.length}{part})"


def _cut_into_chunks(
    ids: Integer[np.ndarray, " n"], num_streams: int, length: int
) -> tuple[Int32[np.ndarray, "streams m"], Int32[np.ndarray, "streams m"], Float32[np.ndarray, "streams m"]]:
    """Inputs, targets and weights of equal parts side by side, padded to whole chunks."""
    targets = len(ids) - 1
    per_stream = -(-targets // num_streams)
    size = num_streams, -(-per_stream // length) * length
    inputs, following, weights = np.zeros(size, np.int32), np.zeros(size, np.int32), np.zeros(size, np.float32)
    for stream in range(num_streams):
        start = stream * per_stream
        count = max(0, min(per_stream, targets - start))
        inputs[stream, :count] = ids[start : start + count]
        following[stream, :count] = ids[start + 1 : start + count + 1]
        weights[stream, :count] = 1.0
    return inputs, following, weights
