"""Files of a checkpoint: a folder that is there whole or not at all, and is verified before anything in it is used.

`manifest.json` has the size and the sha256 of each file, and one of itself. A folder is built under a temporary name
beside its place, flushed to the disk and renamed: a process or a machine may die at any instant, and what has the
name is whole.
"""

import hashlib
import json
import math
import os
import re
import shutil
import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import PyTree, Shaped

from training.errors import CheckpointError
from training.state import named_leaves

STATE, DESCRIPTION = "state.safetensors", "state.json"
DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U64": "uint64",
    "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool", "C64": "complex64",
}  # fmt: skip
_MAX_HEADER = 2**24  # the names of a hundred thousand arrays
_MANIFEST = "manifest.json"
_MANIFEST_FORMAT = 1
_MAX_MANIFEST = 2**16
_PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


def write_state(
    place: Path, arrays: Mapping[str, Any], description: Mapping[str, Any], files: Mapping[str, bytes]
) -> None:
    """Write a new folder, all of it or nothing.

    Raises:
        ValueError: a file's name is not plain.
        OSError: it could not be written.
    """
    # safetensors writes the memory as it lies, so it has to be contiguous.
    whole = {name: np.ascontiguousarray(array).reshape(np.shape(array)) for name, array in arrays.items()}
    text = json.dumps(description, indent=1).encode()
    atomic_folder(place, {**files, STATE: safetensors.numpy.save(whole), DESCRIPTION: text})


def read_state(folder: Path) -> tuple[dict[str, Shaped[np.ndarray, "..."]], Any, dict[str, bytes]]:
    """The arrays, the description, and the other files. Nothing that a file says is believed before it is checked.

    Raises:
        CheckpointError: something is missing or damaged.
    """
    contents = read_folder(folder, (STATE, DESCRIPTION))
    description = parse_json(folder / DESCRIPTION, contents.pop(DESCRIPTION))
    return _arrays(folder / STATE, contents.pop(STATE)), description, contents


def arrays_of(tree: PyTree) -> dict[str, Any]:
    """The arrays of a tree by name, or their shapes.

    Raises:
        TypeError: two have the same name.
    """
    arrays: dict[str, Any] = {}
    for name, leaf in named_leaves(tree):
        if is_array(leaf):
            if name in arrays:
                raise TypeError(f"two arrays have the name {name!r}")
            arrays[name] = leaf
    return arrays


def is_array(leaf: Any) -> bool:
    """Whether a checkpoint holds it: an array of JAX or NumPy, or the shape of one."""
    return isinstance(leaf, jax.Array | np.ndarray | jax.ShapeDtypeStruct)


def is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def describe(leaf: Any) -> str:
    """Type and shape as people write them, for a key those of its data and its kind."""
    if not is_key(leaf):
        return describe_as(leaf, None)
    kinds = []  # found while tracing, because a key of which only the shape is known does not tell its kind

    def data(key: Any) -> Any:
        kinds.append(str(jax.random.key_impl(key)))
        return jax.random.key_data(key)

    return describe_as(jax.eval_shape(data, leaf), kinds[0])


def describe_as(array: Any, impl: str | None) -> str:
    """The same of what a checkpoint holds: of a key its data, and apart from them its kind."""
    return f"{array.dtype}{list(array.shape)}" + (f" of a {impl} key" if impl else "")


def atomic_folder(place: Path, contents: Mapping[str, bytes]) -> None:
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
        for path, content in zip(paths, [*contents.values(), _manifest(_MANIFEST_FORMAT, files)], strict=True):
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
        folder: one that `atomic_folder` wrote.
        needed: names of files that must be there.

    Raises:
        CheckpointError: something is missing, damaged, or not what the manifest says; the file is named.
    """
    path = folder / _MANIFEST
    text = _contents(path, None)
    manifest = parse_json(path, text)
    # Only one text says the same, so that no flipped bit of it goes unseen.
    if not isinstance(manifest, dict) or not isinstance(files := manifest.get("files"), dict):
        raise CheckpointError(f"{path} is not a manifest")
    try:
        undamaged = _manifest(manifest.get("format"), files) == text
    except RecursionError:
        undamaged = False
    if not undamaged:
        raise CheckpointError(f"{path} is damaged: it is not what it says of itself")
    if manifest["format"] != _MANIFEST_FORMAT or not set(needed) <= files.keys():
        raise CheckpointError(
            f"{path} is not a manifest of format {_MANIFEST_FORMAT} with {', '.join(sorted(needed))}"
        )
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
        raise CheckpointError(f"{path} is not JSON: {error}") from None


def _arrays(path: Path, content: bytes) -> dict[str, Shaped[np.ndarray, "..."]]:
    if int.from_bytes(content[:8], "little") > _MAX_HEADER:
        raise CheckpointError(f"{path} has a header of more than {_MAX_HEADER} bytes")
    try:
        tensors = safetensors.deserialize(content)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from None
    arrays = {}
    for name, tensor in tensors:
        if tensor["dtype"] not in DTYPES:
            raise CheckpointError(f"{path}: {name} is of type {tensor['dtype']}, which is not supported")
        dtype = jnp.dtype(DTYPES[tensor["dtype"]])
        arrays[name] = np.frombuffer(tensor["data"], dtype).reshape(tensor["shape"])
    return arrays


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
            raise CheckpointError(f"{path} is not a plain file")
        if size is not None and status.st_size != size:
            raise CheckpointError(f"{path} has {status.st_size} bytes, {size} expected")
        if size is None and status.st_size > _MAX_MANIFEST:
            raise CheckpointError(f"{path} has {status.st_size} bytes, at most {_MAX_MANIFEST} expected")
        with open(path, "rb") as file:
            return file.read(status.st_size)
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error.strerror}") from None


def to_json(value: Any, *, indent: int | None = None) -> str:
    """JSON of plain values; what is infinite or not a number becomes null, paths and others their text.

    Example:
        >>> from pathlib import Path
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
