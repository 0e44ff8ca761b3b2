"""Arrays that took work to make, kept in the cache folder and memory-mapped from there afterwards."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data.download import cache_folder

_FORMAT = 1


def cached_arrays(
    name: str, key: Mapping[str, Any], make: Callable[[], Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """The arrays that `make` makes, from the cache if they were made before with the same key.

    They lie in a folder of their own, beside a manifest with the hash of each file, and the folder appears under
    its name whole or not at all. One that is damaged is renamed `*.corrupt` and made again. A cache that can't be
    written to (a full disk, no permission) costs nothing but the work.

    Args:
        name: what it is, for people who look into the cache.
        key: all that the arrays depend on, plain JSON.
        make: makes them; no array of objects.

    Returns:
        The arrays by name, read-only and memory-mapped.
    """
    identity = json.dumps({"format": _FORMAT, **key}, sort_keys=True)
    folder = cache_folder() / "arrays" / f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:20]}"
    if (arrays := _load(folder)) is not None:
        return arrays
    made = {name: np.ascontiguousarray(array) for name, array in make().items()}
    try:
        _save(folder, made, identity)
    except OSError:
        return made
    return _load(folder) or made


def _save(folder: Path, arrays: Mapping[str, np.ndarray], identity: str) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists():
        os.replace(folder, tempfile.mkdtemp(prefix=f"{folder.name}.corrupt-", dir=folder.parent))
    building = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        hashes = {}
        for name, array in arrays.items():
            with open(building / f"{name}.npy", "wb") as file:
                np.save(file, array, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
            hashes[f"{name}.npy"] = _sha256(building / f"{name}.npy")
        with open(building / "manifest.json", "w", encoding="utf-8") as file:
            json.dump({"key": identity, "sha256": hashes}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.rename(building, folder)
        except OSError:
            if not folder.is_dir():  # else another process has made it meanwhile
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _load(folder: Path) -> dict[str, np.ndarray] | None:
    """The arrays of a folder, or None if there is none or anything about it is wrong."""
    try:
        hashes = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["sha256"]
        arrays = {}
        for file, expected in hashes.items():
            if Path(file).name != file or _sha256(folder / file) != expected:
                return None
            arrays[file.removesuffix(".npy")] = np.load(folder / file, mmap_mode="r", allow_pickle=False)
        return arrays
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
