"""Files that are there whole or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def atomic_write(path: Path, content: bytes) -> None:
    """Writes a file so that at any instant the old one or the new one is there, never a part of either.

    Raises:
        OSError: the file could not be written; the old one is still there.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     atomic_write(Path(folder, "a.txt"), b"whole")
        ...     Path(folder, "a.txt").read_text()
        'whole'
    """
    with atomic_open(path) as file:
        file.write(content)


@contextlib.contextmanager
def atomic_open(path: Path) -> Iterator[BinaryIO]:
    """The same piece by piece: a file to write to, which takes the name once the block ends without an error.

    Until then it has another name in the same folder; first it is flushed to the disk.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if hasattr(os, "O_DIRECTORY"):  # the new name itself, where folders can be flushed
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
