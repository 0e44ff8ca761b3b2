"""Folders of files that are whole or not there: written with a manifest, and verified before anything is used.

`manifest.json` has the size and the sha256 of each file, and one of itself. A folder is built under a temporary name
beside its place, flushed to the disk and renamed: a process or a machine may die at any instant, and what has the
name is whole.
"""

import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

FORMAT = 1
_MANIFEST = "manifest.json"
_MAX_MANIFEST = 2**16
_PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


class CheckpointError(ValueError):
    """A checkpoint that can't be written, is damaged or does not fit; the message names the file or folder."""

    exit_code = 5


def write_folder(place: Path, contents: Mapping[str, bytes]) -> None:
    """Write files into a new folder, all of them or none.

    Args:
        place: the folder; it must not exist, and its parent is made where needed.
        contents: the files by plain names.

    Raises:
        ValueError: a file's name is not plain.
        OSError: the folder could not be written.
    """
    for name in contents:
        if name == _MANIFEST or not _PLAIN.fullmatch(name):
            raise ValueError(f"files must have plain names, and not {_MANIFEST}; got {name!r}")
    temporary = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    try:
        if not place.parent.exists():
            place.parent.mkdir(parents=True)
            _flush(place.parent.parent)
        shutil.rmtree(temporary, ignore_errors=True)  # of a dead process that had our id
        os.mkdir(temporary)
        files = {n: {"bytes": len(c), "sha256": hashlib.sha256(c).hexdigest()} for n, c in contents.items()}
        paths = [temporary / name for name in contents] + [temporary / _MANIFEST]
        for path, content in zip(paths, [*contents.values(), _manifest(FORMAT, files)], strict=True):
            _write(path, content)
        for path in paths:  # after all are written: the first flush then does most of the others' work
            _flush(path)
        _flush(temporary)
        os.rename(temporary, place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _flush(place.parent)


def read_folder(folder: Path, needed: Collection[str]) -> dict[str, bytes]:
    """The files of a folder, each as long as its manifest says and with the hash that it says.

    Args:
        folder: one that `write_folder` wrote.
        needed: names of files that must be there.

    Raises:
        CheckpointError: something is missing, damaged, or not what the manifest says; the file is named.
    """
    path = folder / _MANIFEST
    text = _contents(path, None)
    manifest = parse_json(path, text)
    # Only one text says the same, so that no flipped bit of it goes unseen.
    if not isinstance(manifest, dict) or not isinstance(files := manifest.get("files"), dict):
        raise CheckpointError(f"{path} is no manifest")
    try:
        undamaged = _manifest(manifest.get("format"), files) == text
    except RecursionError:
        undamaged = False
    if not undamaged:
        raise CheckpointError(f"{path} is damaged: it is not what it says of itself")
    if manifest["format"] != FORMAT or not set(needed) <= files.keys():
        raise CheckpointError(f"{path} is not a manifest of format {FORMAT} with {', '.join(sorted(needed))}")
    contents = {}
    for name, entry in files.items():
        match entry:
            case {"bytes": int(size), "sha256": str(sha256)} if _PLAIN.fullmatch(name) and len(entry) == 2:
                contents[name] = _contents(folder / name, size)
            case _:
                raise CheckpointError(f"{path} has a damaged entry for {name!r}")
        found = hashlib.sha256(contents[name]).hexdigest()
        if found != sha256:
            raise CheckpointError(f"sha256 mismatch in {folder / name}: {found}, {sha256} expected")
    return contents


def parse_json(path: Path, content: bytes) -> Any:
    """A file's JSON, or a CheckpointError that names the file."""
    try:
        return json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is no JSON: {error}") from None


def _manifest(format: Any, files: Mapping[str, Any]) -> bytes:
    content = {"files": files, "format": format}
    own = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return (json.dumps({**content, "sha256": own}, indent=1, sort_keys=True) + "\n").encode()


def _write(path: Path, content: bytes) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        left = memoryview(content)
        while left:
            left = left[os.write(file, left) :]
    finally:
        os.close(file)


def _flush(path: Path) -> None:
    """Bring a file or a folder to the disk itself."""
    if path.is_dir() and not hasattr(os, "O_DIRECTORY"):
        return  # a system where folders can't be flushed
    file = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _contents(path: Path, size: int | None) -> bytes:
    """A file's bytes, no more of them than expected."""
    try:
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(f"{path} is no plain file")
        if size is not None and status.st_size != size:
            raise CheckpointError(f"{path} has {status.st_size} bytes, {size} expected")
        if size is None and status.st_size > _MAX_MANIFEST:
            raise CheckpointError(f"{path} has {status.st_size} bytes, at most {_MAX_MANIFEST} expected")
        with open(path, "rb") as file:
            return file.read(status.st_size)
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error.strerror}") from None
