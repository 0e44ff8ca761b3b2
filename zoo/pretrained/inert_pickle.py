"""Reads arrays out of a pickle without unpickling it.

A pickle is a program: it names functions and has them called. `pickle` runs it, and even when it may look up
harmless names only, the program still says how large its tables become and whose attributes are set.
Here `pickletools` takes it apart into instructions, which runs nothing, and the few that plain data needs are
followed by hand. No instruction leads to a Python object that was not made in this file.

What comes out: numbers, strings, bytes, None, lists, tuples, dictionaries, numpy arrays and scalars of numbers
or booleans, arrays of objects that are any of these, and a `Placeholder` for an object of a class that the caller
tolerates.
"""

import math
import pickletools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np

MAX_INSTRUCTIONS = 2_000_000  # each may make an object; an array takes about 20
MAX_AXES = 32
DTYPES = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "O8"}
BYTE_ORDERS: dict[str, Literal["<", ">", "|", "="]] = {"<": "<", ">": ">", "|": "|", "=": "="}
VALUES = {  # instructions that are nothing but a value
    *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}


class Name(NamedTuple):
    """A dotted name in the pickle. It is compared with others, and never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass
class Placeholder:
    """Stands for an object whose class is not loaded: the class's name, and the state that was saved."""

    name: str
    state: Any = field(default=None, repr=False)


@dataclass(frozen=True)
class Names:
    """Which names a pickle may hold: of what is called, of what is an argument, and of what becomes a placeholder."""

    makers: Mapping[Name, Callable[..., Any]]
    mentioned: Collection[Name]
    tolerate: Callable[[str], bool]

    def checked(self, module: Any, name: Any) -> Name:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a reference to something without a name")
        result = Name(module, name)
        if result not in self.makers and result not in self.mentioned and not self.tolerate(str(result)):
            what = "which is neither an array nor a plain container"
            raise ValueError(f"a reference to {str(result)[:100]!r}, {what}")
        return result

    def made(self, name: Any, arguments: Any) -> Any:
        """What a call of `name` would give. Nothing is called but the makers."""
        if not isinstance(name, Name) or name in self.mentioned:
            raise ValueError(f"a call of {name if isinstance(name, Name) else 'something without a name'}")
        return self.makers[name](*arguments) if name in self.makers else Placeholder(str(name))


@dataclass
class Unfinished:
    """An array or dtype that was announced; its contents come later, when the memo may hold it already."""

    finish: Callable[[Any], Any]
    memo_keys: list[int] = field(default_factory=list)


def read_inert_pickle(
    content: bytes,
    tolerate: Callable[[str], bool] = lambda name: False,
    *,
    makers: Mapping[Name, Callable[..., Any]] = MappingProxyType({}),
    mentioned: Collection[Name] = (),
    persistent: Callable[[Any], Any] | None = None,
    max_instructions: int | None = None,
) -> Any:
    """The data in a pickle of protocol 2, 3 or 4, Python's own from 2.3 to 3.13.

    Args:
        content: the pickle.
        tolerate: says of a dotted name whether objects of that class become placeholders; by default none do.
        makers: more functions that stand for names that are called.
        mentioned: more names that may occur as arguments, and come out as a `Name`.
        persistent: what stands for a reference to something outside the pickle; without it there may be none.
        max_instructions: most instructions to follow, of which a list takes one for each item; by default
            `MAX_INSTRUCTIONS`.

    Raises:
        ValueError: it is damaged, has anything but plain data in it, or is a bomb; the text says which.
    """
    try:
        names = Names({**MAKERS, **makers}, {*MENTIONED, *mentioned}, tolerate)
        return _follow(content, names, persistent, max_instructions or MAX_INSTRUCTIONS)
    except (IndexError, KeyError, OverflowError, TypeError, Warning) as error:  # pickletools may warn
        raise ValueError(f"damaged pickle: {type(error).__name__}, {error}") from error


def _follow(content: bytes, names: Names, persistent: Callable[[Any], Any] | None, max_instructions: int) -> Any:
    stack: list[Any] = []
    below: list[list[Any]] = []  # what lies under each open mark
    memo: dict[int, Any] = {}
    argument: Any
    for count, (instruction, argument, position) in enumerate(pickletools.genops(content)):
        if count == max_instructions:
            raise ValueError(f"more than {max_instructions} instructions")
        match instruction.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                if position is None or position + 1 != len(content):
                    raise ValueError("something follows the end of the pickle")
            case name if name in VALUES:
                stack.append(CONSTANTS.get(name, argument))
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "MARK":
                below.append(stack)
                stack = []
            case "TUPLE":
                items, stack = stack, below.pop()
                stack.append(tuple(items))
            case "TUPLE1" | "TUPLE2" | "TUPLE3" as name:
                items = [stack.pop() for _ in range(int(name[-1]))]
                stack.append(tuple(reversed(items)))
            case "APPEND":
                item = stack.pop()
                _list(stack[-1]).append(item)
            case "APPENDS":
                items, stack = stack, below.pop()
                _list(stack[-1]).extend(items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _set_items(stack[-1], [key, value])
            case "SETITEMS":
                items, stack = stack, below.pop()
                _set_items(stack[-1], items)
            case "MEMOIZE" | "BINPUT" | "LONG_BINPUT":
                key = len(memo) if argument is None else argument
                memo[key] = stack[-1]
                if isinstance(stack[-1], Unfinished):
                    stack[-1].memo_keys.append(key)
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                module, _, name = argument.partition(" ")
                stack.append(names.checked(module, name))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(names.checked(module, name))
            case "BINPERSID" if persistent is not None:
                stack.append(persistent(stack.pop()))
            case "REDUCE" | "NEWOBJ":
                arguments, name = stack.pop(), stack.pop()
                stack.append(names.made(name, arguments))
            case "BUILD":
                state = stack.pop()
                stack[-1] = _with_state(stack[-1], state, memo)
            case name:
                raise ValueError(f"the instruction {name}, which plain data does not need")
    if below or len(stack) != 1:
        raise ValueError("damaged pickle: something is left on its stack")
    return stack[0]


def _list(target: Any) -> list[Any]:
    if type(target) is not list:
        raise ValueError(f"an item appended to a {type(target).__name__}")
    return target


def _set_items(target: Any, keys_and_values: list[Any]) -> None:
    if type(target) is not dict:
        raise ValueError(f"an item set in a {type(target).__name__}")
    for key, value in zip(keys_and_values[::2], keys_and_values[1::2], strict=True):
        if not isinstance(key, str | int):  # a tuple may be nested so deep that hashing it crashes
            raise ValueError(f"a dictionary's key of type {type(key).__name__}")
        target[key] = value


def _with_state(target: Any, state: Any, memo: dict[int, Any]) -> Any:
    if isinstance(target, Placeholder):
        target.state = state
        return target
    if type(target) is dict:  # an OrderedDict's attributes, such as torch's list of versions
        return target
    if isinstance(target, Unfinished):
        finished = target.finish(state)
        memo.update(dict.fromkeys(target.memo_keys, finished))
        return finished
    raise ValueError(f"a state for a {type(target).__name__}, which has none")


def _announce_array(*_: Any) -> Unfinished:
    return Unfinished(lambda state: _array(*state))


def _array(version: int, shape: Any, dtype: Any, is_fortran: bool, content: Any) -> np.ndarray:
    objects = isinstance(dtype, np.dtype) and dtype.hasobject
    if not isinstance(dtype, np.dtype) or not isinstance(content, list if objects else bytes):
        raise ValueError("an array of something else than numbers and booleans")
    if not (
        isinstance(shape, tuple)
        and len(shape) <= MAX_AXES
        and all(isinstance(size, int) and 0 <= size < 2**31 for size in shape)
        and math.prod(shape) * (1 if objects else dtype.itemsize) == len(content)
    ):
        raise ValueError("an array whose shape does not fit its contents")
    if isinstance(content, bytes):
        return np.ndarray(shape, dtype, content, order="F" if is_fortran else "C")
    array = np.empty(len(content), object)
    for i, item in enumerate(content):  # one by one: NumPy would make a matrix of equally long lists
        array[i] = item
    return array.reshape(shape)  # such a list is in the order of the last axis, however the array lay in memory


def _announce_dtype(code: Any, *_: Any) -> Unfinished:
    if not isinstance(code, str) or code not in DTYPES:
        raise ValueError("an array of something else than numbers and booleans")

    def finish(state: Any) -> np.dtype:
        order, *structure = state[1:5]
        if not isinstance(order, str) or order not in BYTE_ORDERS or any(part is not None for part in structure):
            raise ValueError("an array of structures")
        return np.dtype(code).newbyteorder(BYTE_ORDERS[order])

    return Unfinished(finish)


def _scalar(dtype: Any, content: Any) -> Any:
    return _array(1, (), dtype, False, content)[()]


MAKERS: dict[Name, Callable[..., Any]] = {
    Name("numpy.core.multiarray", "_reconstruct"): _announce_array,
    Name("numpy._core.multiarray", "_reconstruct"): _announce_array,
    Name("numpy.core.multiarray", "scalar"): _scalar,
    Name("numpy._core.multiarray", "scalar"): _scalar,
    Name("numpy", "dtype"): _announce_dtype,
    Name("collections", "defaultdict"): lambda *_: {},
    Name("collections", "OrderedDict"): dict,
}
MENTIONED = {Name("numpy", "ndarray"), Name("builtins", "list")}  # as arguments of those, never called
