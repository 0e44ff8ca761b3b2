"""Checkpoints on disk: a folder for each step, whole or not there, and verified before anything of it is used.

`step_00000010/` holds `state.safetensors` (every array of the state by name), `state.json` (the rest), files of the
caller, and the manifest that `training.whole_folder` verifies. Nothing in them can run code.
"""

import dataclasses
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import PyTree, Shaped

from training.state import leaf_name
from training.whole_folder import CheckpointError, parse_json, read_folder, write_folder

FORMAT = 1
_STATE, _INFO = "state.safetensors", "state.json"
_STEP = re.compile(r"step_(\d{8,})(?:_(\d+))?")
_UNFINISHED = re.compile(r"\.step_.*\.tmp")
_MAX_HEADER = 2**24  # the names of a hundred thousand arrays
_SHOWN = 5  # names in an error
_TYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U64": "uint64",
    "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool", "C64": "complex64",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and verified.

    Attributes:
        folder: where it lies.
        step: number of steps made.
        info: what the caller saved with it.
        files: the caller's files by name.
    """

    folder: Path
    step: int
    info: dict[str, Any]
    files: dict[str, bytes]
    _arrays: dict[str, Shaped[np.ndarray, "..."]]
    _keys: dict[str, str]

    def differences(self, like: PyTree) -> list[str]:
        """What keeps this checkpoint from being the state of a tree, array by array; [] if it fits."""
        wanted = {name: _describe(leaf) for name, leaf in _named_leaves(like).items()}
        found = {name: _text(array, self._keys.get(name)) for name, array in self._arrays.items()}
        lines = []
        for which, names in (("missing", wanted.keys() - found.keys()), ("unknown", found.keys() - wanted.keys())):
            if names:
                lines.append(f"{len(names)} {which} array(s): {', '.join(sorted(names)[:_SHOWN])}")
        changed = [name for name in wanted if name in found and wanted[name] != found[name]]
        lines += [f"{name} was {found[name]} and is {wanted[name]}" for name in changed[:_SHOWN]]
        return lines + ([f"and {len(changed) - _SHOWN} more arrays"] if len(changed) > _SHOWN else [])

    def restore(self, like: PyTree) -> Any:
        """A tree with all its arrays replaced by those of the checkpoint, each by the one of its name.

        Args:
            like: a state, or its shapes alone (`eqx.filter_eval_shape`).

        Raises:
            CheckpointError: an array is missing, left over, or of another shape, type or kind of key.
        """
        if lines := self.differences(like):
            raise CheckpointError(f"{self.folder / _STATE} does not fit: {'; '.join(lines)}")

        def fill(path: Any, leaf: Any) -> Any:
            if not _is_array(leaf):
                return leaf
            array, impl = self._arrays[leaf_name(path)], self._keys.get(leaf_name(path))
            if isinstance(leaf, np.ndarray):
                return array.copy()
            return jnp.array(array) if impl is None else jax.random.wrap_key_data(jnp.array(array), impl=impl)

        return jax.tree_util.tree_map_with_path(fill, like)


def save_checkpoint(
    folder: Path,
    step: int,
    state: PyTree,
    info: Mapping[str, Any],
    *,
    files: Mapping[str, bytes] | None = None,
    keep: int | None = 2,
    spare: Collection[Path] = (),
) -> Path:
    """Write a checkpoint, whole or not at all, and then delete old ones.

    Args:
        folder: of all checkpoints of a run; made if it is not there.
        step: number of steps made.
        state: a pytree; its arrays are saved by name, typed random keys with their kind, and nothing else.
        info: plain JSON.
        files: more files by name, plain names without folders.
        keep: how many of the newest checkpoints to keep, at least 1; None for all.
        spare: checkpoints, such as broken ones, that neither count nor are deleted.

    Returns:
        The checkpoint's folder: `step_00000010`, or `step_00000010_2` if that was there.

    Raises:
        CheckpointError: it could not be written; the older checkpoints are as they were.
        TypeError: `info` is not plain JSON, two arrays have the same name or an array's type can't be saved.
        ValueError: a negative step, `keep` below 1, or a file's name that is not plain.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as name:
        ...     _ = save_checkpoint(Path(name), 3, {"w": jnp.ones(2), "key": jax.random.key(1)}, {"best": 0.5})
        ...     found = read_checkpoint(Path(name))
        >>> state = found.restore({"w": jnp.zeros(2), "key": jax.random.key(0)})
        >>> found.step, found.info, state["w"].tolist(), state["key"] == jax.random.key(1)
        (3, {'best': 0.5}, [1.0, 1.0], Array(True, dtype=bool))
    """
    if step < 0 or (keep is not None and keep < 1):
        raise ValueError(f"step must be at least 0 and keep at least 1; got {step} and {keep}")
    contents = {**(files or {}), **_serialised(step, state, info)}
    place, attempt = folder / f"step_{step:08d}", 1
    try:
        while place.exists():  # a broken one of this step, perhaps
            attempt += 1
            place = folder / f"step_{step:08d}_{attempt}"
        write_folder(place, contents)
    except OSError as error:
        reason = f"{error.strerror or error}; older checkpoints are as they were"
        raise CheckpointError(f"{place} could not be written: {reason}") from error
    if keep is not None:
        kept = [path for path in _steps(folder) if path not in spare]
        _delete(folder, kept[keep:])
    return place


def read_checkpoint(path: Path, *, on_broken: Callable[[Path, CheckpointError], None] | None = None) -> Checkpoint:
    """Read a checkpoint, or the newest good one of a folder of checkpoints. Nothing is changed or deleted.

    Sizes and hashes of all files are verified before anything in them is looked at.

    Args:
        path: one checkpoint's folder, or the folder of all.
        on_broken: called with each broken checkpoint that was passed over and what is wrong with it; None warns.

    Raises:
        CheckpointError: the checkpoint is damaged, or there is none that can be used.
    """
    if _STEP.fullmatch(path.name) and not _steps(path):
        return _read(path)
    for step in _steps(path):
        try:
            return _read(step)
        except CheckpointError as error:
            if on_broken is None:
                warnings.warn(f"passed over a broken checkpoint: {error}", stacklevel=2)
            else:
                on_broken(step, error)
    raise CheckpointError(f"no usable checkpoint in {path}")


def delete_checkpoints(folder: Path) -> None:
    """Delete all checkpoints of a folder: those of an earlier run, when a new one begins in its place."""
    _delete(folder, _steps(folder))


def _steps(folder: Path) -> list[Path]:
    """The folders of steps, newest first."""
    found = [match for name in _names(folder) if (match := _STEP.fullmatch(name))]
    found.sort(key=lambda match: (int(match[1]), int(match[2] or 1)), reverse=True)
    return [folder / match[0] for match in found]


def _delete(folder: Path, steps: list[Path]) -> None:
    """Delete checkpoints, and what killed processes left unfinished; what can't be deleted stays."""
    for path in steps:
        doomed = folder / f".{path.name}.deleted.tmp"
        try:
            os.rename(path, doomed)  # so that no half of it ever has the name of a checkpoint
        except OSError as error:
            warnings.warn(f"{path} could not be deleted: {error.strerror}", stacklevel=3)
    for name in _names(folder):
        if _UNFINISHED.fullmatch(name):
            shutil.rmtree(folder / name, ignore_errors=True)


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


# What is written.


def _serialised(step: int, state: PyTree, info: Mapping[str, Any]) -> dict[str, bytes]:
    arrays, keys = {}, {}
    for name, leaf in _named_leaves(state).items():
        if _is_key(leaf):
            keys[name], leaf = str(jax.random.key_impl(leaf)), jax.random.key_data(leaf)
        # safetensors writes the memory as it lies, so it has to be contiguous.
        arrays[name] = np.ascontiguousarray(leaf).reshape(np.shape(leaf))
        if arrays[name].dtype.name not in _TYPES.values():
            raise TypeError(f"{name} is of type {arrays[name].dtype}, which can't be saved")
    content = {"format": FORMAT, "step": step, "keys": keys, "info": dict(info)}
    try:
        text = json.dumps(content, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(f"info must be plain JSON: {error}") from None
    return {_STATE: safetensors.numpy.save(arrays), _INFO: text.encode()}


def _named_leaves(tree: PyTree) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if _is_array(leaf):
            name = leaf_name(path)
            if name in named:
                raise TypeError(f"two arrays have the name {name!r}")
            named[name] = leaf
    return named


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | jax.ShapeDtypeStruct)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _describe(leaf: Any) -> str:
    """Type and shape as people write them, for a key those of its data and its kind."""
    if not _is_key(leaf):
        return _text(leaf, None)
    kinds = []  # found while tracing, because a key of which only the shape is known does not tell its kind

    def data(key: Any) -> Any:
        kinds.append(str(jax.random.key_impl(key)))
        return jax.random.key_data(key)

    return _text(jax.eval_shape(data, leaf), kinds[0])


def _text(array: Any, impl: str | None) -> str:
    return f"{array.dtype}{list(array.shape)}" + (f" of a {impl} key" if impl else "")


# What is read. Nothing that a file says of itself is believed before it is checked.


def _read(folder: Path) -> Checkpoint:
    contents = read_folder(folder, (_STATE, _INFO))
    match parse_json(folder / _INFO, contents.pop(_INFO)):
        case {"format": int(format), "step": int(step), "keys": dict(keys), "info": dict(info)}:
            pass
        case _:
            raise CheckpointError(f"{folder / _INFO} is not the description of a checkpoint")
    if format != FORMAT:
        raise CheckpointError(f"{folder / _INFO} has format {format}, this version reads format {FORMAT}")
    named = _STEP.fullmatch(folder.name)
    if named and int(named[1]) != step:
        raise CheckpointError(f"{folder / _INFO} is of step {step}, the folder's name says otherwise")
    arrays = _arrays(folder / _STATE, contents.pop(_STATE))
    for name, impl in keys.items():
        if name not in arrays or not isinstance(impl, str) or not impl:
            raise CheckpointError(f"{folder / _INFO}: {name!r} is no random key of kind {impl!r}")
    return Checkpoint(folder, step, info, contents, arrays, keys)


def _arrays(path: Path, content: bytes) -> dict[str, Shaped[np.ndarray, "..."]]:
    if int.from_bytes(content[:8], "little") > _MAX_HEADER:
        raise CheckpointError(f"{path} has a header of more than {_MAX_HEADER} bytes")
    try:
        tensors = safetensors.deserialize(content)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is no safetensors file: {error}") from None
    arrays = {}
    for name, tensor in tensors:
        if tensor["dtype"] not in _TYPES:
            raise CheckpointError(f"{path}: {name} is of type {tensor['dtype']}, which is not supported")
        dtype = jnp.dtype(_TYPES[tensor["dtype"]])
        arrays[name] = np.frombuffer(tensor["data"], dtype).reshape(tensor["shape"])
    return arrays
