"""One self-describing file per model: safetensors, with all that is needed to rebuild the model in its header.

The header holds the class's name, its config (or its constructor's arguments), a format version and the caller's own
JSON (a tokenizer, class names). Nothing in a file can run code, and weights are found by name, so a file never loads
into a model of another shape or into the wrong field. (Format 1 had constructor's arguments for all classes.)
"""

import dataclasses
import errno
import inspect
import json
import os
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import PRNGKeyArray, Shaped

from zoo.atomic_write import atomic_write
from zoo.rebuild import check_fits, config_class, is_array, name_of, rebuild
from zoo.rebuild import named_arrays as named_arrays
from zoo.rebuild import with_arrays as with_arrays
from zoo.version import __version__

FORMAT = 2
_HEADER = "pytree-zoo"
_MOST_HEADER_BYTES = 100_000_000  # of safetensors, which reads no more

# What format 1 called otherwise, in the models of the zoo: arguments that are fields now, and leaves.
_FIELDS_OF_FORMAT_1 = {"position_start": "position_init", "rematerialise": "remat"}
_LEAVES_OF_FORMAT_1 = {"norm_out.weight": "final_norm.weight", "norm_out.bias": "final_norm.bias"}


class ModelFileError(ValueError):
    """A file that holds no model, a damaged one, or one that does not fit the class; the message names the file.

    Attributes:
        exit_code: what a program that stops because of it should end with.
    """

    exit_code = 5


def save(path: str | os.PathLike[str], model: eqx.Module, *, extra: Any = None) -> None:
    """Writes a model to one file, whole or not at all: an earlier file stays until the new one is complete.

    What `load` would not give back equal is refused before anything is written. (Tuples in `extra` come back as
    lists, and the model in training mode.)

    Args:
        path: where to; by custom it ends in `.safetensors`.
        model: a module with a config, or one whose constructor's arguments (all but `key`) are attributes of the
            same names and plain JSON.
        extra: anything that is plain JSON, kept with the model.

    Raises:
        TypeError: an argument of the constructor that is not an attribute, or that, like `extra`, is not plain
            JSON; an array of a type that a file cannot hold.
        ValueError: the model is not what its config makes (a part was exchanged), or `extra` is too large.
        OSError: the file could not be written.

    Example:
        >>> from zoo import CharRNN, CharRNNConfig, load, read_extra, save
        >>> import pathlib, tempfile
        >>> rnn = CharRNN(CharRNNConfig(vocab_size=3, hidden_size=4, num_layers=1), key=jax.random.key(0))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(pathlib.Path(folder, "rnn.safetensors"), rnn, extra={"alphabet": "abc"})
        ...     again = load(pathlib.Path(folder, "rnn.safetensors"))
        ...     extra = read_extra(pathlib.Path(folder, "rnn.safetensors"))
        >>> bool(eqx.tree_equal(rnn, again)), extra
        (True, {'alphabet': 'abc'})
    """
    path, name = Path(path), type(model).__name__
    described = description(model)
    header = {"format": FORMAT, "version": __version__, "class": name, **described, "extra": extra}
    try:
        text = json.dumps(header, allow_nan=False)
        same = json.loads(text) == _with_lists(header)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"extra and the arguments of {name} must be plain JSON: {error}") from None
    if not same:
        raise TypeError(f"extra and the arguments of {name} must be plain JSON: keys of its objects are strings")
    arrays = {key: _on_host(key, array) for key, array in named_arrays(model).items()}
    _check_rebuilds(model, described)
    if len(text) + 200 * len(arrays) > _MOST_HEADER_BYTES:  # a name, a type, a shape and two offsets each
        raise ValueError(f"extra is too large: {len(text):,} bytes of JSON, where a file has room for 100 MB")
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "No such folder to save into", str(path.parent))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "Is a folder, not a file to save to", str(path))
    atomic_write(path, safetensors.numpy.save(arrays, {_HEADER: text}))


def load(
    path: str | os.PathLike[str], cls: type | None = None, *, key: PRNGKeyArray | None = None, **changes: Any
) -> Any:
    """Reads a model that `save` wrote, of this or an earlier version.

    Args:
        path: the file.
        cls: the class of the model; found among the names that `zoo` exports by default.
        key: for arrays whose shapes the changes change, as in `rebuild`.
        changes: fields of the config and their new values, as in `rebuild`.

    Returns:
        The model, with the weights' own types, in training mode: `eqx.nn.inference_mode(model)` turns dropout off.

    Raises:
        ModelFileError: no such model, or a file that is damaged or of another class or format.
        FileNotFoundError: no such file.
        TypeError, ValueError: changes that are not possible, as in `rebuild`.
    """
    path = Path(path)
    header, arrays = _read(path)
    name = header["class"]
    if cls is None:
        import zoo  # here, because zoo imports this module

        cls = getattr(zoo, name, None)
        if not (isinstance(cls, type) and issubclass(cls, eqx.Module)):
            raise ModelFileError(f"{path} holds a {name}, which zoo does not export: pass its class as cls")
    elif cls.__name__ != name:
        raise ModelFileError(f"{path} holds a {name}, not a {cls.__name__}")
    if header["format"] == 1 and config_class(cls) is not None:
        old = header.pop("arguments")
        header["config"] = {_FIELDS_OF_FORMAT_1.get(field, field): value for field, value in old.items()}
        arrays = {_LEAVES_OF_FORMAT_1.get(leaf, leaf): array for leaf, array in arrays.items()}
    skeleton = _skeleton(path, cls, header)
    try:
        model = with_arrays(skeleton, arrays)
    except ValueError as error:
        raise ModelFileError(f"{path} does not fit the {name} that it describes: {error}") from None
    return rebuild(model, key=key, **changes) if changes else model


def read_extra(path: str | os.PathLike[str]) -> Any:
    """What `save` was given as `extra`, without building the model. Raises as `load` does."""
    return _read(Path(path))[0]["extra"]


def constructor_arguments(model: eqx.Module) -> dict[str, Any]:
    """The arguments, all but `key`, that a model was built with, read from the attributes of the same names.

    Raises:
        TypeError: an argument is not an attribute.
    """
    names = [name for name in inspect.signature(type(model)).parameters if name != "key"]
    missing = [name for name in names if not hasattr(model, name)]
    if missing:
        raise TypeError(f"{type(model).__name__} does not keep its argument {missing[0]!r} as an attribute")
    return {name: getattr(model, name) for name in names}


def description(model: eqx.Module) -> dict[str, Any]:
    """What a file says of a model besides its arrays: its config, or its constructor's arguments."""
    if config_class(type(model)) is None:
        return {"arguments": constructor_arguments(model)}
    config: Any = model.config  # pyright: ignore[reportAttributeAccessIssue]
    return {"config": {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}}


def _build(cls: type, described: dict[str, Any]) -> Any:
    """The shapes of the model that is described."""
    key, made_from = jax.random.key(0), config_class(cls)
    if made_from is not None and "config" in described:
        return eqx.filter_eval_shape(cls, made_from(**described["config"]), key=key)
    return eqx.filter_eval_shape(cls, **described["arguments"], key=key)


def _skeleton(path: Path, cls: type, header: dict[str, Any]) -> Any:
    """The shapes of the model in a file."""
    name, made_from = header["class"], config_class(cls)
    if ("config" in header) != (made_from is not None):
        raise ModelFileError(f"{path}: {name} had {'a' if 'config' in header else 'no'} config when it was saved")
    if made_from is not None:
        unknown = sorted(header["config"].keys() - {field.name for field in dataclasses.fields(made_from)})
        if unknown:
            raise ModelFileError(
                f"{path} was written by version {header.get('version', '(unknown)')}; its {name} has "
                f"{unknown[0]!r}, which this version ({__version__}) does not know"
            )
    try:
        return _build(cls, header)
    except (TypeError, ValueError) as error:
        what = header.get("config", header.get("arguments"))
        raise ModelFileError(f"{path}: {name} can't be built from {what}: {error}") from error


def _check_rebuilds(model: eqx.Module, described: dict[str, Any]) -> None:
    """Raises `ValueError` unless what describes a model makes one of the same structure, shapes and numbers."""
    name = type(model).__name__
    how = (
        "zoo.rebuild changes a model together with its config; save one with other parts as a class of your own, "
        "or its arrays alone (zoo.serialisation.named_arrays)"
    )
    try:
        skeleton = _build(type(model), json.loads(json.dumps(described)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} can't be rebuilt from what would be saved of it ({error}); {how}") from error
    try:
        check_fits(skeleton, named_arrays(model))
    except ValueError as error:
        raise ValueError(
            f"{name} is not what its config makes, so load would refuse the file: {error}; {how}"
        ) from None
    other = [
        name_of(path)
        for (path, ours), theirs in zip(
            jax.tree_util.tree_leaves_with_path(model), jax.tree.leaves(skeleton), strict=False
        )
        if not is_array(ours) and name_of(path).rpartition(".")[2] != "inference" and ours is not theirs
        and (type(ours) is not type(theirs) or ours != theirs)
    ]  # fmt: skip
    if other:
        raise ValueError(f"{name} is not what its config makes, {other[0]} differs, which no file would hold; {how}")
    if jax.tree.structure(model) != jax.tree.structure(skeleton):
        raise ValueError(f"{name} is not what its config makes: a part is of another class or kind; {how}")


def _with_lists(value: Any) -> Any:
    """As JSON gives it back: lists for tuples."""
    if isinstance(value, dict):
        return {key: _with_lists(item) for key, item in value.items()}
    return [_with_lists(item) for item in value] if isinstance(value, list | tuple) else value


_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


def _on_host(name: str, array: Any) -> Shaped[np.ndarray, "..."]:
    """As safetensors writes it: contiguous memory of a type that `load` knows."""
    if str(array.dtype) not in _DTYPES.values():
        raise TypeError(f"{name} is of type {array.dtype}, which a model file cannot hold: cast it first")
    return np.asarray(jax.device_get(array), order="C")


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Shaped[np.ndarray, "..."]]]:
    """The header and the arrays of a file."""
    if path.is_dir():
        raise ModelFileError(f"{path} is a folder, not a model file")
    content = path.read_bytes()
    try:
        # The plain functions can't read bfloat16; a view of each tensor's bytes can.
        tensors = safetensors.deserialize(content)
        length = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + length]).get("__metadata__", {})
        header = json.loads(metadata.get(_HEADER, "null"))
    except (safetensors.SafetensorError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        # Only now: a sound file may begin with the same bytes.
        if content[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"\x1f\x8b", b"PK"):
            raise ModelFileError(
                f"{path} looks like a pickle or an archive: pickle files are not loaded, because they can run code. "
                "Build the model, put the weights into it, and save it with zoo.save"
            ) from None
        raise ModelFileError(f"{path} is not a model file, or a damaged one: {error}") from None
    if not isinstance(header, dict) or not {"format", "class", "extra"} <= header.keys():
        raise ModelFileError(f"{path} is a safetensors file, but zoo.save did not write it")
    if header["format"] not in (1, FORMAT):
        raise ModelFileError(
            f"{path} has format {header['format']!r}, this version ({__version__}) reads formats 1 and {FORMAT}"
        )
    described = header.get("config", header.get("arguments"))
    if not isinstance(header["class"], str) or not isinstance(described, dict):
        raise ModelFileError(f"{path} has a damaged header")
    return header, {name: _array(info, path) for name, info in tensors}


def _array(info: dict[str, Any], path: Path) -> Shaped[np.ndarray, "..."]:
    if info["dtype"] not in _DTYPES:
        raise ModelFileError(f"{path} holds arrays of type {info['dtype']}, which are not supported")
    dtype = jnp.dtype(_DTYPES[info["dtype"]])
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ModelFileError(f"{path} holds arrays of {dtype}, which need JAX_ENABLE_X64=1")
    return np.frombuffer(info["data"], dtype).reshape(info["shape"])
