"""A checkpoint's arrays and description in files that one process writes, each with a hash: safetensors and JSON."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Shaped

from training.whole_folder import CheckpointError, parse_json, read_folder, write_folder

STATE, DESCRIPTION = "state.safetensors", "state.json"
_MAX_HEADER = 2**24  # the names of a hundred thousand arrays
TYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U64": "uint64",
    "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool", "C64": "complex64",
}  # fmt: skip


def write_files(
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
    write_folder(place, {**files, STATE: safetensors.numpy.save(whole), DESCRIPTION: text})


def read_files(folder: Path) -> tuple[dict[str, Shaped[np.ndarray, "..."]], Any, dict[str, bytes]]:
    """The arrays, the description, and the other files. Nothing that a file says is believed before it is checked.

    Raises:
        CheckpointError: something is missing or damaged.
    """
    contents = read_folder(folder, (STATE, DESCRIPTION))
    description = parse_json(folder / DESCRIPTION, contents.pop(DESCRIPTION))
    return _arrays(folder / STATE, contents.pop(STATE)), description, contents


def _arrays(path: Path, content: bytes) -> dict[str, Shaped[np.ndarray, "..."]]:
    if int.from_bytes(content[:8], "little") > _MAX_HEADER:
        raise CheckpointError(f"{path} has a header of more than {_MAX_HEADER} bytes")
    try:
        tensors = safetensors.deserialize(content)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is no safetensors file: {error}") from None
    arrays = {}
    for name, tensor in tensors:
        if tensor["dtype"] not in TYPES:
            raise CheckpointError(f"{path}: {name} is of type {tensor['dtype']}, which is not supported")
        dtype = jnp.dtype(TYPES[tensor["dtype"]])
        arrays[name] = np.frombuffer(tensor["data"], dtype).reshape(tensor["shape"])
    return arrays
