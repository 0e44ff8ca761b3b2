"""One self-describing file per model: safetensors, with all that is needed to rebuild the model in its header.

The header holds the class's name, the constructor's arguments, a format version and the caller's own JSON (a
tokenizer, class names). Nothing in a file can run code, and weights are found by name, so a file never loads into a
model of another shape or into the wrong field.
"""

import inspect
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import PyTree, Shaped

FORMAT = 1
_HEADER = "pytree-zoo"
_SHOWN = 5  # names in an error


class ModelFileError(ValueError):
    """A file that holds no model, a damaged one, or one that does not fit the class; the message names the file.

    Attributes:
        exit_code: what a program that stops because of it should end with.
    """

    exit_code = 5


def save(path: str | os.PathLike[str], model: eqx.Module, *, extra: Any = None) -> None:
    """Writes a model to one file, whole or not at all: an earlier file stays until the new one is complete.

    Args:
        path: where to; by custom it ends in `.safetensors`.
        model: a module whose constructor's arguments (all but `key`) are attributes of the same names and plain JSON.
        extra: anything that is plain JSON, kept with the model.

    Raises:
        TypeError: an argument of the constructor that is no attribute, or that, like `extra`, is not plain JSON.
        OSError: the file could not be written.

    Example:
        >>> from zoo import TransformerLM, load, read_extra, save
        >>> import pathlib, tempfile
        >>> lm = TransformerLM(11, 12, 2, 2, 24, 16, key=jax.random.key(0))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(pathlib.Path(folder, "lm.safetensors"), lm, extra={"alphabet": "abc"})
        ...     again = load(pathlib.Path(folder, "lm.safetensors"))
        ...     extra = read_extra(pathlib.Path(folder, "lm.safetensors"))
        >>> bool(eqx.tree_equal(lm, again)), extra
        (True, {'alphabet': 'abc'})
    """
    header = {
        "format": FORMAT,
        "class": type(model).__name__,
        "arguments": constructor_arguments(model),
        "extra": extra,
    }
    try:
        text = json.dumps(header, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(f"extra and the arguments of {type(model).__name__} must be plain JSON: {error}") from None
    write_whole(Path(path), safetensors.numpy.save(_to_numpy(model), {_HEADER: text}))


def load(path: str | os.PathLike[str], cls: type | None = None) -> Any:
    """Reads a model that `save` wrote.

    Args:
        path: the file.
        cls: the class of the model; found among the names that `zoo` exports by default.

    Returns:
        The model, with the weights' own types, in training mode: `eqx.nn.inference_mode(model)` turns dropout off.

    Raises:
        ModelFileError: no such model, or a file that is damaged or of another class or format.
        FileNotFoundError: no such file.
    """
    header, arrays = _read(Path(path))
    name, arguments = header["class"], header["arguments"]
    if cls is None:
        import zoo  # here, because zoo imports this module

        cls = getattr(zoo, name, None)
        if not (isinstance(cls, type) and issubclass(cls, eqx.Module)):
            raise ModelFileError(f"{path} holds a {name}, which zoo does not export: pass its class as cls")
    elif cls.__name__ != name:
        raise ModelFileError(f"{path} holds a {name}, not a {cls.__name__}")
    try:
        skeleton = eqx.filter_eval_shape(cls, **arguments, key=jax.random.key(0))
    except (TypeError, ValueError) as error:
        raise ModelFileError(f"{path}: {name} can't be built from its arguments {arguments}: {error}") from error
    try:
        return with_arrays(skeleton, arrays)
    except ValueError as error:
        raise ModelFileError(f"{path} does not fit the {name} that it describes: {error}") from None


def read_extra(path: str | os.PathLike[str]) -> Any:
    """What `save` was given as `extra`, without building the model. Raises as `load` does."""
    return _read(Path(path))[0]["extra"]


def constructor_arguments(model: eqx.Module) -> dict[str, Any]:
    """The arguments, all but `key`, that a model was built with, read from the attributes of the same names.

    Raises:
        TypeError: an argument is no attribute.
    """
    names = [name for name in inspect.signature(type(model)).parameters if name != "key"]
    missing = [name for name in names if not hasattr(model, name)]
    if missing:
        raise TypeError(f"{type(model).__name__} does not keep its argument {missing[0]!r} as an attribute")
    return {name: getattr(model, name) for name in names}


def named_arrays(tree: PyTree) -> dict[str, Shaped[jax.Array, "..."]]:
    """The arrays of a tree by name, such as `stack.blocks.mlp.up.weight`."""
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(tree, eqx.is_array))
    return {_name(path): leaf for path, leaf in leaves}


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _to_numpy(model: eqx.Module) -> dict[str, Shaped[np.ndarray, "..."]]:
    # safetensors writes the memory as it lies, so it has to be contiguous.
    return {name: np.ascontiguousarray(jax.device_get(x)) for name, x in named_arrays(model).items()}


def with_arrays(like: PyTree, arrays: Mapping[str, Shaped[np.ndarray, "..."]]) -> Any:
    """A model with all its arrays replaced, each by the one of its name, in the arrays' own types.

    Args:
        like: a model, or its shapes alone (`eqx.filter_eval_shape`).
        arrays: by the names that `named_arrays` gives.

    Raises:
        ValueError: an array is missing, left over, of another shape, or an integer where a float belongs.

    Example:
        >>> like = eqx.filter_eval_shape(eqx.nn.Linear, 2, 1, key=jax.random.key(0))
        >>> model = with_arrays(like, {"weight": np.ones((1, 2)), "bias": np.array([3.0])})
        >>> model(jnp.array([1.0, 2.0])).tolist()
        [6.0]
    """
    slots, static = eqx.partition(like, lambda leaf: eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct))
    wanted = {_name(place): leaf for place, leaf in jax.tree_util.tree_leaves_with_path(slots)}
    for which, names in (("missing", wanted.keys() - arrays.keys()), ("unknown", arrays.keys() - wanted.keys())):
        if names:
            raise ValueError(f"{len(names)} {which} array(s): {', '.join(sorted(names)[:_SHOWN])}")
    for name, slot in wanted.items():
        found = arrays[name]
        if found.shape != slot.shape or _is_float(found) != _is_float(slot):
            raise ValueError(
                f"{name} is {found.dtype}{list(found.shape)}, the model takes {slot.dtype}{list(slot.shape)}"
            )
    filled = jax.tree_util.tree_map_with_path(lambda place, _: jnp.asarray(arrays[_name(place)]), slots)
    return eqx.combine(filled, static)


def _is_float(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Shaped[np.ndarray, "..."]]]:
    """The header and the arrays of a file."""
    if path.is_dir():
        raise ModelFileError(f"{path} is a folder, not a model file")
    try:
        content = path.read_bytes()
        if content[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"\x1f\x8b", b"PK"):
            raise ModelFileError(
                f"{path} looks like a pickle or an archive: pickle files are not loaded, because they can run code. "
                "Build the model, put the weights into it, and save it with zoo.save"
            )
        # The plain functions can't read bfloat16; a view of each tensor's bytes can.
        tensors = safetensors.deserialize(content)
        length = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + length]).get("__metadata__", {})
        header = json.loads(metadata.get(_HEADER, "null"))
    except (safetensors.SafetensorError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ModelFileError(f"{path} is no model file, or a damaged one: {error}") from None
    if not isinstance(header, dict) or not {"format", "class", "arguments", "extra"} <= header.keys():
        raise ModelFileError(f"{path} is a safetensors file, but zoo.save did not write it")
    if header["format"] != FORMAT:
        raise ModelFileError(f"{path} has format {header['format']!r}, this version reads format {FORMAT}")
    if not isinstance(header["class"], str) or not isinstance(header["arguments"], dict):
        raise ModelFileError(f"{path} has a damaged header")
    return header, {name: _array(info, path) for name, info in tensors}


_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


def _array(info: dict[str, Any], path: Path) -> Shaped[np.ndarray, "..."]:
    if info["dtype"] not in _DTYPES:
        raise ModelFileError(f"{path} holds arrays of type {info['dtype']}, which are not supported")
    return np.frombuffer(info["data"], jnp.dtype(_DTYPES[info["dtype"]])).reshape(info["shape"])


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file so that at any instant the old one or the new one is there, never a part of either.

    The content goes to a temporary file in the same folder, is flushed to the disk, and takes the name.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
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
