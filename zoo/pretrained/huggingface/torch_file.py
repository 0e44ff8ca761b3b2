"""Where the tensors of a `pytorch_model.bin` lie, read without torch and without running what is in it.

Such a file is a zip of uncompressed entries: a pickle that describes the tensors, and the numbers of each, which stay
on the disk. Of the pickle's instructions `zoo.pretrained.inert_pickle` follows those that describe tensors.
"""

import struct
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from zoo.pretrained import PretrainedError
from zoo.pretrained.inert_pickle import Name, read_inert_pickle

DTYPES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool",
}  # fmt: skip
MOST_PICKLE_BYTES = 2**26


class Storage(NamedTuple):
    """Numbers of one type in one entry of the zip."""

    key: str
    dtype: np.dtype


class Tensor(NamedTuple):
    """A part of a storage, in numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


Where = tuple[np.dtype, tuple[int, ...], int, tuple[int, ...]]


def read_torch_file(path: Path) -> dict[str, Where]:
    """Name of each tensor -> its type, its shape, and its offset and strides in bytes of the file.

    Raises:
        PretrainedError: it is no such file, it is damaged, or anything but tensors is in it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {info.filename: info for info in archive.infolist()}
            names = [name for name in entries if name.endswith("/data.pkl")]
            if len(names) != 1:
                raise ValueError("it holds no single data.pkl")
            folder = names[0].removesuffix("data.pkl")
            if any(info.compress_type != zipfile.ZIP_STORED for info in entries.values()):
                raise ValueError("its entries are compressed")
            if entries[names[0]].file_size > MOST_PICKLE_BYTES:
                raise ValueError(f"its pickle is larger than {MOST_PICKLE_BYTES:,} bytes")
            if f"{folder}byteorder" in entries and archive.read(f"{folder}byteorder") != b"little":
                raise ValueError("its numbers have their most significant byte first")
            tensors = _tensors(archive.read(names[0]))
        with open(path, "rb") as file:
            starts = {name: _start(file, info) for name, info in entries.items()}
        return {
            name: _where(tensor, entries[f"{folder}data/{tensor.storage.key}"], starts)
            for name, tensor in tensors.items()
        }
    except zipfile.BadZipFile:
        raise PretrainedError(
            f"{path} is not a complete zip: cut off, or written by torch before 1.6, whose files torch.save converts"
        ) from None
    except (ValueError, KeyError, EOFError, OSError, RecursionError, NotImplementedError, struct.error) as error:
        raise PretrainedError(f"{path} is refused, nothing in it was executed: {error}") from None


def _tensors(content: bytes) -> dict[str, Tensor]:
    """The pickle's dictionary."""
    tensors = read_inert_pickle(
        content, tolerate=lambda name: False, makers=MAKERS, mentioned=STORAGES.keys(), persistent=_storage
    )
    if not isinstance(tensors, dict):
        raise ValueError("it holds no dictionary of tensors")
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ValueError(f"{name!r} is no tensor")
    return tensors


def _storage(reference: Any) -> Storage:
    kind, storage, key, _, _ = reference
    if kind != "storage" or storage not in STORAGES or not isinstance(key, str):
        raise ValueError("a reference to something else than numbers")
    return Storage(key, STORAGES[storage])


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, Storage) or not all(type(n) is int and 0 <= n < 2**48 for n in numbers):
        raise ValueError("a tensor that is not described as tensors are")
    if len(shape) != len(strides) or len(shape) > 8:
        raise ValueError("a tensor that is not described as tensors are")
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _start(file: Any, info: zipfile.ZipInfo) -> int:
    """Where the bytes of an entry begin: after a header whose length stands in it alone."""
    file.seek(info.header_offset)
    name, extra = struct.unpack("<26xHH", file.read(30))
    return info.header_offset + 30 + name + extra


def _where(tensor: Tensor, info: zipfile.ZipInfo, starts: dict[str, int]) -> Where:
    dtype = tensor.storage.dtype
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    if 0 not in tensor.shape and (last + 1) * dtype.itemsize > info.file_size:
        raise ValueError("a tensor reaches beyond its storage")
    strides = tuple(stride * dtype.itemsize for stride in tensor.strides)
    return dtype, tensor.shape, starts[info.filename] + tensor.offset * dtype.itemsize, strides


STORAGES = {Name("torch", name): jnp.dtype(dtype) for name, dtype in DTYPES.items()}
MAKERS = {
    Name("torch._utils", "_rebuild_tensor_v2"): _tensor,
    Name("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
}
