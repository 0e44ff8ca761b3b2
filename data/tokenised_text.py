"""The ids of a text file of any size: made in parallel, once, and memory-mapped afterwards."""

import hashlib
import mmap
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int32, Integer
from tqdm import tqdm

from data.array_cache import cached_arrays
from data.download import cache_folder
from data.errors import DataError
from data.text import load_text
from data.tokenizer import Tokenizer

_CONTEXT = 1024  # bytes before and after a cut that have a say in the tokens around it
_MOST_TRIED = 64  # places for a cut
_PLACE = re.compile(rb"(?<=\S)(?=\s)")  # before white space: no character and no CR LF is cut
_LINE_END = re.compile(rb"\r\n|\r|\n")


def tokenised_text(
    path: str | os.PathLike[str], tokenizer: Tokenizer, *, chunk_bytes: int = 2**22, threads: int | None = None
) -> Integer[np.ndarray, " ids"]:
    """The ids of a UTF-8 file: those of `tokenizer.encode(load_text(path))`, whatever its size.

    A file larger than a chunk is tokenised chunk by chunk in several threads (the byte pairs of tiktoken and most of
    numpy let others run meanwhile), in a few chunks' memory, with a progress bar. Each chunk's ids are kept as they
    are made: after a kill the next call goes on with the others. The whole is kept in the cache for the same file
    (path, size and time of change) and tokenizer.

    Chunks end where a window of 2 kB around the end has the same tokens cut as whole, before white space. So all ids
    are those of the whole text for every tokenizer whose tokens depend on no more than the text so near to them.

    Args:
        path: the file. To name a folder's file like a known text, write `./tinyshakespeare`.
        tokenizer: makes the ids; it is asked from several threads at once.
        chunk_bytes: about how much is tokenised at a time, at least 1.
        threads: how many; by default as many as there are processors.

    Returns:
        The ids: of a file of several chunks memory-mapped, as 16-bit numbers if all are less than 65,536.

    Raises:
        ValueError: an argument is out of its range.
        DataError: the file is empty, not UTF-8 (file and line are named), or has what the tokenizer can't express.
        OSError: the file can't be read, or the cache not be written.
    """
    if chunk_bytes < 1 or (threads is not None and threads < 1):
        raise ValueError(f"chunk_bytes and threads must be at least 1; got {chunk_bytes} and {threads}")
    path = Path(path).resolve()
    found = path.stat()
    if found.st_size <= chunk_bytes:
        return tokenizer.encode(load_text(path))
    vocabulary = hashlib.sha256(repr(sorted(tokenizer.to_json().items())).encode()).hexdigest()
    key = {"text": str(path), "size": found.st_size, "time": found.st_mtime_ns, "vocabulary": vocabulary}
    digest = hashlib.sha256(repr((key, chunk_bytes)).encode()).hexdigest()[:20]
    shards = cache_folder() / "arrays" / f"{digest}.partial"

    def cached() -> Integer[np.ndarray, " ids"]:
        return cached_arrays("text", key, lambda: {"ids": _in_chunks(path, tokenizer, shards, chunk_bytes, threads)})[
            "ids"
        ]

    try:
        ids = cached()
    except FileNotFoundError:  # another process was ready first, and has tidied up
        ids = cached()
    shutil.rmtree(shards, ignore_errors=True)
    return ids


def _in_chunks(
    path: Path, tokenizer: Tokenizer, shards: Path, chunk_bytes: int, threads: int | None
) -> Integer[np.ndarray, " ids"]:
    shards.mkdir(parents=True, exist_ok=True)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        text = _Text(path, content, tokenizer)
        chunks = list(text.chunks(chunk_bytes))
        files = [shards / f"{start}-{end}.npy" for start, end in chunks]
        bar = tqdm(desc=f"tokenising {path.name}", total=len(content), unit="B", unit_scale=True, disable=None)
        with bar, ThreadPoolExecutor(threads or os.cpu_count()) as pool:
            try:
                tasks = [pool.submit(text.tokenise, *chunk, to) for chunk, to in zip(chunks, files, strict=True)]
                for task in as_completed(tasks):
                    bar.update(task.result())
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    made = [np.load(file, mmap_mode="r", allow_pickle=False) for file in files]
    most = max((int(ids.max()) for ids in made if len(ids)), default=0)
    with tempfile.NamedTemporaryFile(dir=shards, suffix=".npy", delete=False) as whole:
        size = (sum(map(len, made)),)
        joined = np.lib.format.open_memmap(whole.name, "w+", np.uint16 if most < 2**16 else np.int32, size)
    np.concatenate(made, out=joined, casting="unsafe")
    return joined


@dataclass(frozen=True)
class _Text:
    """A file in memory pages, and what makes ids of it."""

    path: Path
    content: mmap.mmap
    tokenizer: Tokenizer

    def chunks(self, chunk_bytes: int) -> Iterator[tuple[int, int]]:
        """Where each chunk starts and ends."""
        start = 0
        for aim in range(chunk_bytes, len(self.content), chunk_bytes):
            if aim > start and (end := self._cut(aim, aim + chunk_bytes)) is not None:
                yield start, end
                start = end
        yield start, len(self.content)

    def _cut(self, aim: int, before: int) -> int | None:
        """The first place at or after `aim` where a cut changes no token; None if none is found near."""
        for _, place in zip(range(_MOST_TRIED), _PLACE.finditer(self.content, aim, before), strict=False):
            cut = place.start()
            around = self._character(max(cut - _CONTEXT, 0)), self._character(min(cut + _CONTEXT, len(self.content)))
            parts = [self._encode(around[0], cut), self._encode(cut, around[1])]
            if np.array_equal(np.concatenate(parts), self._encode(*around)):
                return cut
        return None

    def _character(self, place: int) -> int:
        """The place itself, or the next one where a character starts."""
        while place < len(self.content) and self.content[place] & 0xC0 == 0x80:
            place += 1
        return place

    def tokenise(self, start: int, end: int, to: Path) -> int:
        """Makes the ids of a chunk, if they are not there, and returns how many bytes it has."""
        if not to.exists():
            ids = self._encode(start, end)
            with tempfile.NamedTemporaryFile(dir=to.parent, suffix=".tmp", delete=False) as file:
                np.save(file, ids, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
            os.replace(file.name, to)
        return end - start

    def _encode(self, start: int, end: int) -> Int32[np.ndarray, " ids"]:
        try:
            text = self.content[start:end].decode("utf-8" if start else "utf-8-sig")
        except UnicodeDecodeError as error:
            place = start + error.start + (len(self.content[start:end]) - len(error.object))
            line = 1 + sum(1 for _ in _LINE_END.finditer(self.content, 0, place))
            byte = self.content[place]
            raise DataError(f"{self.path}, line {line}: byte 0x{byte:02x} is not UTF-8 ({error.reason})") from error
        try:
            return self.tokenizer.encode(text.replace("\r\n", "\n").replace("\r", "\n"))
        except ValueError as error:
            raise DataError(f"{self.path}, bytes {start} to {end}: {error}") from error
