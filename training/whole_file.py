"""Files that are written whole or not at all."""

import json
import math
import os
from pathlib import Path
from typing import Any


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that at any instant the old one or the new one is there, never a part of either.

    The content goes to a temporary file in the same folder, is flushed to the disk, and takes the name.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    data = content.encode() if isinstance(content, str) else content
    try:
        with open(temporary, "wb") as file:
            file.write(data)
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


def to_json(value: Any, *, indent: int | None = None) -> str:
    """JSON of plain values; what is infinite or not a number becomes null, paths and others their text.

    Example:
        >>> to_json({"loss": float("nan"), "file": Path("a/b")})
        '{"loss": null, "file": "a/b"}'
    """
    return json.dumps(_plain(value), indent=indent, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "tolist"):  # numbers and arrays of numpy and JAX
        return _plain(value.tolist())
    return str(value)
