"""Checkpoints on disk: a folder for each step, verified before anything of it is used.

`step_00000010/` holds `state.safetensors` (every array of the state by name), `state.json` (the rest), files of the
caller, and the manifest that `training.saving.files` verifies. Nothing in them can run code.
"""

import dataclasses
import json
import os
import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import PyTree, Shaped

from training.devices.processes import is_first
from training.errors import CheckpointError
from training.saving.checkpoint_names import checkpoints_in, delete, step_of
from training.saving.files import (
    DESCRIPTION,
    DTYPES,
    STATE,
    arrays_of,
    describe,
    describe_as,
    is_array,
    is_key,
    read_state,
    write_state,
)
from training.saving.sharded import ShardedWriter, is_sharded, read_arrays, read_description
from training.state import named_leaves

FORMAT = 2  # 1 had the words of version 0.1: members, fresh, identity
_SHOWN = 5  # names in an error


class _OtherFormatError(CheckpointError):
    """A checkpoint of another version of this code, which is not a broken one."""


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
    _arrays: dict[str, Shaped[np.ndarray | Array, "..."] | jax.ShapeDtypeStruct]
    _keys: dict[str, str]

    def differences(self, like: PyTree) -> list[str]:
        """What keeps this checkpoint from being the state of a tree, array by array; [] if it fits."""
        wanted = {name: describe(leaf) for name, leaf in arrays_of(like).items()}
        found = {name: describe_as(array, self._keys.get(name)) for name, array in self._arrays.items()}
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
            place = self.folder if is_sharded(self.folder) else self.folder / STATE
            raise CheckpointError(f"{place} does not fit: {'; '.join(lines)}")

        def fill(name: str, leaf: Any) -> Any:
            if not is_array(leaf):
                return leaf
            array, impl = self._arrays[name], self._keys.get(name)
            if isinstance(leaf, np.ndarray):
                return np.array(array)
            if not isinstance(array, jax.Array) or len(array.sharding.device_set) == 1:
                array = jnp.array(np.asarray(array))
            return array if impl is None else jax.random.wrap_key_data(array, impl=impl)

        return jax.tree.unflatten(jax.tree.structure(like), [fill(*named) for named in named_leaves(like)])


def save_checkpoint(
    folder: str | os.PathLike[str],
    step: int,
    state: PyTree,
    info: Mapping[str, Any],
    *,
    files: Mapping[str, bytes] | None = None,
    keep: int | None = 2,
    spare: Collection[str | os.PathLike[str]] = (),
    writer: ShardedWriter | None = None,
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
        writer: writes in the background, each process its own part; all call this together, and at the end its
            `wait`. Without one, one process writes arrays that are whole.

    Returns:
        The checkpoint's folder: `step_00000010`, or `step_00000010_2` if that was there.

    Raises:
        CheckpointError: it could not be written; the older checkpoints are as they were.
        TypeError: `info` is not plain JSON, two arrays have the same name or an array's type can't be saved.
        ValueError: a negative step, `keep` below 1, or a file's name that is not plain.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as name:
        ...     _ = save_checkpoint(name, 3, {"w": jnp.ones(2), "key": jax.random.key(1)}, {"best": 0.5})
        ...     found = read_checkpoint(name)
        >>> state = found.restore({"w": jnp.zeros(2), "key": jax.random.key(0)})
        >>> found.step, found.info, state["w"].tolist(), state["key"] == jax.random.key(1)
        (3, {'best': 0.5}, [1.0, 1.0], Array(True, dtype=bool))
    """
    folder, spared = Path(folder), {Path(path) for path in spare}
    if step < 0 or (keep is not None and keep < 1):
        raise ValueError(f"step must be at least 0 and keep at least 1; got {step} and {keep}")
    arrays, description = _described(step, state, info)
    if writer is not None:
        writer.wait()  # what it still writes has another name until it is whole: perhaps the one to be chosen
    place, attempt = folder / f"step_{step:08d}", 1
    while place.exists():  # a broken one, or one of before an evaluation
        attempt += 1
        place = folder / f"step_{step:08d}_{attempt}"

    def delete_old() -> None:
        if keep is not None and is_first():
            delete(folder, [path for path in checkpoints_in(folder) if path not in spared][keep:])

    if writer is not None:
        texts = {name: content.decode("utf-8", "surrogateescape") for name, content in (files or {}).items()}
        writer.write(place, arrays, {**description, "files": texts}, after=delete_old)
        return place
    try:
        write_state(place, arrays, description, files or {})
    except OSError as error:
        reason = f"{error.strerror or error}; older checkpoints are as they were"
        raise CheckpointError(f"{place} could not be written: {reason}") from error
    delete_old()
    return place


def read_checkpoint(
    path: str | os.PathLike[str],
    *,
    like: PyTree = None,
    on_broken: Callable[[Path, CheckpointError], None] | None = None,
) -> Checkpoint:
    """Read a checkpoint, or the newest good one of a folder of checkpoints. Nothing is changed or deleted.

    Sizes and hashes of all files are verified before anything in them is looked at, but for those that processes
    wrote together: they are read as Orbax reads them.

    Args:
        path: one checkpoint's folder, or the folder of all.
        like: the tree to be restored: arrays of a checkpoint that processes wrote together go where its own lie,
            and no process holds more of them. None for all of them on one device.
        on_broken: called with each broken checkpoint that was passed over and what is wrong with it; None warns.

    Raises:
        CheckpointError: the checkpoint is damaged or of another version, or there is none that can be used.
    """
    path = Path(path)
    if step_of(path) is not None and not checkpoints_in(path):
        return _read(path, like)
    for step in checkpoints_in(path):
        try:
            return _read(step, like)
        except _OtherFormatError:
            raise
        except CheckpointError as error:
            if on_broken is None:
                warnings.warn(f"passed over a broken checkpoint: {error}", stacklevel=2)
            else:
                on_broken(step, error)
    raise CheckpointError(f"no usable checkpoint in {path}")


# What is written.


def _described(step: int, state: PyTree, info: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arrays by name, and what else there is to know, as plain JSON."""
    arrays, keys = arrays_of(state), {}
    for name, leaf in arrays.items():
        if is_key(leaf):
            keys[name], arrays[name] = str(jax.random.key_impl(leaf)), jax.random.key_data(leaf)
        elif leaf.dtype.name not in DTYPES.values():
            raise TypeError(f"{name} is of type {leaf.dtype}, which can't be saved")
    description = {"format": FORMAT, "step": step, "keys": keys, "info": dict(info)}
    try:
        json.dumps(description, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(f"info must be plain JSON: {error}") from None
    return arrays, description


# What is read. Nothing that a file says of itself is believed before it is checked.


def _read(folder: Path, like: PyTree) -> Checkpoint:
    sharded = is_sharded(folder)
    where = folder if sharded else folder / DESCRIPTION
    arrays: dict[str, Any]
    if sharded:
        described, arrays = read_description(folder)
        try:
            contents = {n: text.encode("utf-8", "surrogateescape") for n, text in described["files"].items()}
        except (KeyError, AttributeError, UnicodeError):
            raise CheckpointError(f"{folder} has a description without its files") from None
    else:
        arrays, described, contents = read_state(folder)
    match described:
        case {"format": int(format), "step": int(step), "keys": dict(keys), "info": dict(info)}:
            pass
        case _:
            raise CheckpointError(f"{where} is not the description of a checkpoint")
    if format != FORMAT:
        raise _OtherFormatError(f"{where} has format {format}; this version of pytree-zoo reads format {FORMAT}")
    if step_of(folder) not in (None, step):
        raise CheckpointError(f"{where} is of step {step}, the folder's name says otherwise")
    for name, impl in keys.items():
        if name not in arrays or not isinstance(impl, str) or not impl:
            raise CheckpointError(f"{where}: {name!r} is not a random key of kind {impl!r}")
    found = Checkpoint(folder, step, info, contents, arrays, keys)
    if sharded and (like is None or not found.differences(like)):
        wanted = arrays if like is None else {name: _place(leaf) for name, leaf in arrays_of(like).items()}
        found = dataclasses.replace(found, _arrays=read_arrays(folder, wanted))
    return found


def _place(leaf: Any) -> jax.ShapeDtypeStruct:
    """Shape, type and sharding of an array, of a random key those of its data."""
    if is_key(leaf):
        leaf = jax.random.key_data(leaf) if isinstance(leaf, jax.Array) else jax.eval_shape(jax.random.key_data, leaf)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None))
