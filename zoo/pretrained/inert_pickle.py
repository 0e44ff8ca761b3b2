"""Reads arrays out of a pickle without unpickling it.

A pickle is a program: it names functions and has them called. `pickle` runs it, and even when it may look up
harmless names only, the program still says how large its tables become and whose attributes are set.
Here `pickletools` takes it apart into instructions, which runs nothing, and the few that plain data needs are
followed by hand. There is no way from an instruction to a Python object that was not made in this file.

What comes out: numbers, strings, bytes, None, lists, tuples, dictionaries, numpy arrays and scalars (numbers
and booleans alone), and a `Placeholder` for an object of a class that the caller tolerates.
"""

import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

MAX_INSTRUCTIONS = 2_000_000  # each may make an object; a checkpoint takes about 20 for an array
DTYPES = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}


class _Refused(Exception):
    """The pickle has something that plain data has not."""


class Global(NamedTuple):
    """A name that the pickle refers to. It is never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass
class Placeholder:
    """Stands for an object whose class is not loaded: the class's name, and the state that was saved."""

    name: str
    state: Any = field(default=None, repr=False)


@dataclass
class _Unfinished:
    """An array or dtype that was announced and whose contents follow. `memo` are the numbers it is kept under."""

    finish: Callable[[Any], Any]
    memo: list[int] = field(default_factory=list)


def read_inert_pickle(content: bytes, tolerate: Callable[[str], bool]) -> Any:
    """The data in a pickle, protocols 2 to 5.

    Args:
        content: the pickle.
        tolerate: says of a dotted name whether objects of that class become placeholders.

    Raises:
        ValueError: it is damaged, has anything but plain data in it, or is a bomb; the text gives the reason.
    """
    try:
        return _Machine(tolerate).run(content)
    except _Refused as refusal:
        raise ValueError(str(refusal)) from None
    except (ValueError, TypeError, IndexError, KeyError, OverflowError) as error:
        raise ValueError(f"it is damaged ({error})") from error


class _Machine:
    """The pickle machine's stack and memo, and one method for each group of instructions that it follows."""

    def __init__(self, tolerate: Callable[[str], bool]):
        self.tolerate = tolerate
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under each open mark
        self.memo: dict[int, Any] = {}

    def run(self, content: bytes) -> Any:
        for count, (opcode, argument, position) in enumerate(pickletools.genops(content)):
            if count >= MAX_INSTRUCTIONS:
                raise _Refused(f"it has more than {MAX_INSTRUCTIONS} instructions")
            if opcode.name == "STOP":
                break
            if opcode.name in PUSHED:
                self.stack.append(argument)
            elif (follow := FOLLOWED.get(opcode.name)) is not None:
                follow(self, argument)
            else:
                raise _Refused(f"it has the instruction {opcode.name}, which plain data does not need")
        if position + 1 != len(content):
            raise _Refused(f"{len(content) - position - 1} bytes follow its end")
        (result,) = self.stack
        return result

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop_to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def tuple(self, size: int) -> None:
        if len(self.stack) < size:
            raise _Refused("it takes more from the stack than is there")
        items = tuple(self.stack[-size:])
        del self.stack[-size:]
        self.push(items)

    def extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise _Refused("it appends to what is no list")
        self.stack[-1].extend(items)

    def set_items(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not dict:
            raise _Refused("it sets items of what is no dictionary")
        for key, value in zip(items[0::2], items[1::2], strict=True):
            if not isinstance(key, str | int):  # others may nest, and hashing those has no limit of depth
                raise _Refused(f"a dictionary has a key of type {type(key).__name__}")
            self.stack[-1][key] = value

    def put(self, number: int) -> None:
        self.memo[number] = self.stack[-1]
        if isinstance(self.stack[-1], _Unfinished):
            self.stack[-1].memo.append(number)

    def refer(self, name: Global) -> None:
        if not (name in CALLED or name in MENTIONED or self.tolerate(str(name))):
            raise _Refused(f"it refers to {name}, which is no array and no plain container")
        self.push(name)

    def call(self) -> None:
        """REDUCE and NEWOBJ: the stack has a name and the arguments it is to be called with."""
        arguments, name = self.stack.pop(), self.stack.pop()
        if not isinstance(name, Global) or name in MENTIONED:
            raise _Refused(f"it calls {name if isinstance(name, Global) else 'something without a name'}")
        self.push(CALLED[name](*arguments) if name in CALLED else Placeholder(str(name)))

    def build(self) -> None:
        """BUILD: the stack has an object and its state."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Placeholder):
            target.state = state
        elif isinstance(target, _Unfinished):
            self.stack[-1] = target.finish(state)
            self.memo.update(dict.fromkeys(target.memo, self.stack[-1]))
        else:
            raise _Refused("it sets the state of something that has none")


PUSHED = {
    *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
