"""What tells runs apart, and data: sixteen digits for all that a data set, a list of batches or a file holds."""

import collections
import dataclasses
import functools
import hashlib
import io
import json
import os
import random
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from training.devices.sharding import on_host
from training.state import TrainState, named_leaves

_PLAIN = (type(None), bool, int, float, complex, str, type(...))
# In the names of what an object comes to hold as it is used, Grain's data sets among them.
_OF_USE = ("cache", "stats", "executor", "lock", "has_child")
_OPAQUE = (types.ModuleType, type)
_OF_NUMPY = (np.ndarray, np.generic)
_ARRAYS = (*_OF_NUMPY, jax.Array)
_SEQUENCE = (8).to_bytes(8, "little") + b"sequence"  # as `_with_length` gives it
_SHORT = 4096  # bytes that are copied sooner than a hash is called once more


def data_fingerprint(data: Any) -> str:
    """A fingerprint of all that `data` is made of; equal data have the same in every process.

    Arrays count by type, shape and contents, files by their contents, everything else by what it holds, however deep:
    lists and mappings, dataclasses and other objects (a Grain data set with its sources, seeds and functions),
    functions with what they close over, iterators with what they iterate over. An object that holds more
    than makes it what it is (the shard of a process, say) has a method `fingerprint()`, which gives what counts, of
    any of these kinds.

    Of an iterator that shows nothing of what it reads, only the type counts.

    Example:
        >>> rows = [{"x": np.arange(3)}, {"x": np.arange(3)}]
        >>> before = data_fingerprint(rows)
        >>> data_fingerprint([dict(row) for row in rows]) == before
        True
        >>> rows[1]["x"][2] = 7
        >>> data_fingerprint(rows) == before
        False
    """
    return _Digests().of(data).hex()


def run_fingerprint(
    configuration: Mapping[str, Any],
    state: TrainState,
    stream: Any,
    evaluation: Any,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """All that has to be the same for another run to resume from the checkpoints of this one, by name.

    Args:
        configuration, options: what the caller and `fit` want to stay the same; plain JSON.
        state: of the run, at its first step or later.
        stream: a `BatchStream` before anything was read.
        evaluation: an `Evaluation`, or None.
    """
    all_data = stream.fingerprint()  # before anything is read
    all_to_evaluate_on = None if evaluation is None else evaluation.fingerprint()
    first = None if evaluation is None else evaluation.first()
    rates = optax.tree_utils.tree_get_all_with_path(state.opt_state, "learning_rate")
    frozen = [name for name, leaf in named_leaves(state.split_model()[1]) if eqx.is_inexact_array(leaf)]
    return {
        "model": _described(state.model),
        "configuration": configuration,
        "data": {
            "first batch": stream.first_digest(),
            "first to evaluate on": None if first is None else stream.digest(first),
            "all": all_data,
            "all to evaluate on": all_to_evaluate_on,
        },
        "fit": options,
        "learning rates": [np.asarray(on_host(rate)).tolist() for _, rate in rates],
        "key": np.asarray(jax.random.key_data(on_host(state.key))).tolist(),
        "not trained": frozen,
    }


def _described(model: Any) -> dict[str, Any]:
    """A model's class and its fields: what it was constructed with, as far as that is plain."""
    fields = dataclasses.fields(model) if dataclasses.is_dataclass(model) else ()
    return {"class": type(model).__name__, "arguments": {f.name: _plain(getattr(model, f.name)) for f in fields}}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type | eqx.Module):
        value = dataclasses.asdict(value)
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        return getattr(value, "__name__", type(value).__name__)


def differences(was: Any, now: Any, name: str = "") -> list[str]:
    """What differs between two fingerprints, a line for each."""
    if not (isinstance(was, dict) and isinstance(now, dict)):
        return [] if was == now else [f"{name} was {was!r} and is {now!r}"]
    names = list(was) + [added for added in now if added not in was]
    return [line for n in names for line in differences(was.get(n), now.get(n), f"{name}.{n}" if name else n)]


class _Digests:
    """Digests of everything below one object; what is there many times is read once."""

    def __init__(self):
        self._known: dict[int, bytes] = {}
        self._alive: list[Any] = []  # or another object might get the same id

    def of(self, value: Any) -> bytes:
        if isinstance(value, bytes | bytearray):
            return _hash("bytes", value)
        if isinstance(value, _PLAIN):
            return _hash(type(value).__name__, repr(value))
        if isinstance(value, list | tuple) and all(type(item) in _PLAIN for item in value):
            return _hash_after(_SEQUENCE, repr(list(value)))
        if id(value) not in self._known:
            self._known[id(value)] = b"cycle"
            self._alive.append(value)
            self._known[id(value)] = self._of_object(value)
        return self._known[id(value)]

    def _of_object(self, value: Any) -> bytes:
        # What a list of items is made of, first: the questions below take longer than the answers.
        if type(value) is np.ndarray or isinstance(value, np.generic):
            return self._of_array(value)
        if type(value) is dict:
            return self._of_mapping(value)
        if isinstance(value, _OPAQUE):
            return _hash("name", getattr(value, "__qualname__", value.__name__))
        if isinstance(value, np.dtype):
            return _hash("dtype", str(value))
        if callable(getattr(value, "fingerprint", None)):
            return _hash(type(value).__qualname__, self.of(value.fingerprint()))
        if isinstance(value, _ARRAYS) or hasattr(value, "__array__"):
            return self._of_array(value)
        if isinstance(value, Mapping):
            return self._of_mapping(value)
        if isinstance(value, list | tuple | collections.deque):
            return _hash("sequence", *map(self.of, value))
        if isinstance(value, set | frozenset):
            return _hash("set", *sorted(map(self.of, value)))
        if isinstance(value, os.PathLike):
            return _file_digest(Path(value))
        if isinstance(value, io.IOBase):
            return _file_digest(Path(str(getattr(value, "name", ""))))
        if isinstance(value, np.random.Generator):
            return self.of(value.bit_generator.state)
        if isinstance(value, random.Random):
            return self.of(value.getstate())
        return self._of_code(value) or self._of_iterator(value) or self._of_fields(value)

    def _of_mapping(self, value: Mapping[Any, Any]) -> bytes:
        of_name = lambda name: _of_name(name) if type(name) is str else self.of(name)  # noqa: E731
        return _hash("mapping", *sorted(of_name(name) + self.of(item) for name, item in value.items()))

    def _of_array(self, value: Any) -> bytes:
        if not isinstance(value, _OF_NUMPY) and isinstance(value, jax.Array):
            value = on_host(jax.random.key_data(value) if jnp.issubdtype(value.dtype, jax.dtypes.prng_key) else value)
        array = np.asarray(value)
        if array.dtype.hasobject:
            return _hash("objects", repr(array.shape), self.of(array.ravel().tolist()))
        if array.nbytes < _SHORT:
            contents = array.tobytes()
        else:
            contents = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        # Two records' types can be equal and read otherwise: what is cached would depend on which came first.
        kind = _of_kind if array.dtype.kind != "V" else _of_kind.__wrapped__
        return _hash_after(kind(array.dtype, array.shape), contents)

    def _of_code(self, value: Any) -> bytes | None:
        """Functions by their names and by what they hold: not by their code, which the same data may outlive."""
        if isinstance(value, functools.partial):
            return _hash("partial", *map(self.of, (value.func, value.args, value.keywords)))
        if isinstance(value, types.MethodType):
            return _hash("method", value.__func__.__qualname__, self.of(value.__self__))
        if isinstance(value, types.FunctionType):
            cells = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
            held = (cells, value.__defaults__, value.__kwdefaults__)
            return _hash("function", value.__qualname__, *map(self.of, held))
        if hasattr(value, "__wrapped__"):  # a jitted or caching function
            return self.of(value.__wrapped__)
        return None

    def _of_iterator(self, value: Any) -> bytes | None:
        """Of one that has not begun, what it was made from: that of a list is the list."""
        if isinstance(value, types.GeneratorType):
            frame = value.gi_frame
            return _hash("generator", value.__qualname__, self.of(frame.f_locals if frame else None))
        if type(value).__module__ not in ("builtins", "itertools"):
            return None
        try:
            made_by, made_from, *state = value.__reduce__()
        except TypeError:
            return None
        if made_by is iter and len(made_from) == 1 and state in ([], [0]):
            return self.of(made_from[0])
        return _hash(type(value).__name__, self.of(made_from), self.of(state))

    def _of_fields(self, value: Any) -> bytes:
        fields = dict(getattr(value, "__dict__", {}))
        for cls in type(value).__mro__:
            slots = cls.__dict__.get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if hasattr(value, name) and name not in ("__dict__", "__weakref__"):
                    fields[name] = getattr(value, name)
        if dataclasses.is_dataclass(value):
            fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        kept = {
            name: item
            for name, item in fields.items()
            if not any(word in name for word in _OF_USE)
            and not isinstance(getattr(type(value), name, None), functools.cached_property)
        }
        return _hash(type(value).__qualname__, self.of(kept))


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _hash(*parts: Any) -> bytes:
    *before, last = parts
    return _hash_after(b"".join(map(_with_length, before)), last)


def _hash_after(begun: bytes, part: Any) -> bytes:
    """`_hash` of parts of which all but the last one are there with their lengths: few calls, and no copy of a large
    one."""
    content = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
    if len(content) < _SHORT:
        return hashlib.blake2b(begun + _with_length(content), digest_size=8).digest()
    digest = hashlib.blake2b(begun + len(content).to_bytes(8, "little"), digest_size=8)
    digest.update(content)
    return digest.digest()


def _with_length(part: str | bytes) -> bytes:
    content = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
    return len(content).to_bytes(8, "little") + content  # or two texts could be cut differently


@functools.lru_cache(maxsize=4096)
def _of_kind(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """What comes before an array's contents."""
    return b"".join(map(_with_length, ("array", str(dtype), repr(shape))))


@functools.lru_cache(maxsize=4096)
def _of_name(text: str) -> bytes:
    """Columns of many items have the same few names."""
    return _hash("str", repr(text))


def _file_digest(path: Path) -> bytes:
    """Of a file its contents, of anything else its name."""
    try:
        found = path.stat()
        if path.is_file():
            return _of_file(str(path.resolve()), found.st_size, found.st_mtime_ns)
    except OSError:
        pass
    return _hash("path", str(path))


@functools.lru_cache(maxsize=1024)
def _of_file(path: str, size: int, time: int) -> bytes:
    """Once for a file that stays the same."""
    del size, time
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).digest()
