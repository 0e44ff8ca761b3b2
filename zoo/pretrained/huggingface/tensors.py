"""The tensors of a folder by name, mapped from its files: none is read before it is asked for."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors
from jaxtyping import Shaped

from zoo.pretrained import PretrainedError
from zoo.pretrained.huggingface.settings import read_json
from zoo.pretrained.huggingface.torch_file import read_torch_file

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
FILES = ("model.safetensors", "pytorch_model.bin")  # a folder with both has the same in both


class Entry(NamedTuple):
    """Where a tensor lies in a file; strides in bytes, or None for rows in order."""

    path: Path
    dtype: np.dtype | str  # the name of one that no weights have
    shape: tuple[int, ...]
    offset: int
    strides: tuple[int, ...] | None = None


class Tensors(dict[str, Entry]):
    """The tensors of a folder: names -> where they lie, and `array` for what lies there.

    Raises:
        PretrainedError: the folder has no tensors, or a file of them is damaged or hostile. The files' tables are
            read here, and no tensor.
    """

    def __init__(self, folder: Path):
        self._maps: dict[Path, np.memmap] = {}
        for path in _files(folder):
            self.update(_read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path))

    def array(self, name: str) -> Shaped[np.ndarray, "..."]:
        """A view of the file, which must not be kept: what changes the file changes it."""
        path, dtype, shape, offset, strides = self[name]
        assert not isinstance(dtype, str), f"{name} is {dtype}"
        if path not in self._maps:
            self._maps[path] = np.memmap(path, np.uint8, mode="r")
        return np.ndarray(shape, dtype, self._maps[path], offset, strides)

    def equal(self, name: str, other: str) -> bool:
        """Whether there are two such tensors and their numbers are the same, as a tied head's are."""
        one, two = self.get(name), self.get(other)
        if one is None or two is None or one[1:3] != two[1:3] or isinstance(one.dtype, str):
            return False
        bits = f"u{one.dtype.itemsize}"  # as whole numbers: quickly compared, and NaN is equal to itself
        pairs = zip(self.array(name), self.array(other), strict=True)  # row by row, which takes no memory
        return one == two or all(np.array_equal(a.view(bits), b.view(bits)) for a, b in pairs)


def _files(folder: Path) -> list[Path]:
    """The files of a folder that hold its tensors."""
    for name in FILES:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            weight_map = read_json(index).get("weight_map")
            if not isinstance(weight_map, dict) or not weight_map:
                raise PretrainedError(f"{index} has no weight_map")
            ending = name.rpartition(".")[2]
            return [folder / _checked(part, ending, index) for part in sorted(map(str, set(weight_map.values())))]
    raise PretrainedError(f"{folder} has no {' or '.join(FILES)}, nor an index of either")


def _checked(name: str, ending: str, index: Path) -> str:
    """A name out of an index, which must be that of a file beside it."""
    if name != os.path.basename(name) or "\\" in name or ".." in name or not name.endswith("." + ending):
        raise PretrainedError(f"{index} names {name!r}, which is not the name of a .{ending} file beside it")
    return name


def _read_safetensors(path: Path) -> dict[str, Entry]:
    try:
        with safetensors.safe_open(path, framework="numpy"):  # checks that tensors and file fit, without a gap
            pass
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
    except (safetensors.SafetensorError, OSError, ValueError, RecursionError) as error:
        raise PretrainedError(f"{path} is not a complete safetensors file: {error}") from None
    header.pop("__metadata__", None)
    return {name: _entry(path, info, 8 + size) for name, info in header.items()}


def _entry(path: Path, info: dict[str, Any], start: int) -> Entry:
    kind = info["dtype"]
    dtype = jnp.dtype(DTYPES[kind]) if kind in DTYPES else kind  # whether it is needed is not known yet
    return Entry(path, dtype, tuple(info["shape"]), start + info["data_offsets"][0])


def _read_torch(path: Path) -> dict[str, Entry]:
    return {name: Entry(path, *where) for name, where in read_torch_file(path).items()}
