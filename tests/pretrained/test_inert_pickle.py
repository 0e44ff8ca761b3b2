"""The inert reader: plain data comes out as it went in, and everything else is refused without a trace."""

import collections
import os
import pickle
import struct
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.pretrained import inert_pickle
from zoo.pretrained.inert_pickle import Placeholder, read_inert_pickle


def read(content: bytes):
    return read_inert_pickle(content, tolerate=lambda name: name.startswith("trax."))


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=4)
    ),
    max_leaves=20,
)
PROTOCOLS = st.sampled_from([3, 4])


@given(plain, PROTOCOLS)
def test_plain_data_comes_out_as_it_went_in(data, protocol):
    read_back = read(pickle.dumps(data, protocol))
    assert read_back == data
    assert repr(read_back) == repr(data)  # 1, True and 1.0 are equal


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("dtype", ["b1", "i1", "i2", "<i4", "i8", "u1", "u8", "f2", "f4", "f8", ">f4", ">i8"])
def test_arrays(dtype, protocol):
    rows = np.arange(24).reshape(2, 3, 4).astype(dtype)
    for array in (rows, rows.T, rows[:, 1], rows[:0], np.array(rows[0, 0, 1]), np.asfortranarray(rows[0])):
        read_back = read(pickle.dumps([array, array], protocol))
        assert len(read_back) == 2
        for copy in read_back:  # the second comes out of the memo
            assert copy.dtype == array.dtype
            assert copy.shape == array.shape
            assert copy.tobytes() == array.tobytes()


@pytest.mark.parametrize("protocol", [3, 4])
def test_arrays_of_objects(protocol):
    lists = np.empty((2, 3), object)
    for i, place in enumerate(np.ndindex(2, 3)):
        lists[place] = [i, i + 1] if i % 2 else None
    for array in (lists, lists.T, np.asfortranarray(lists), lists[:0], lists[0, 1:2]):
        copy = read(pickle.dumps(array, protocol))
        assert copy.dtype == object
        assert copy.shape == array.shape
        assert copy.tolist() == array.tolist()
    with pytest.raises(ValueError, match="does not fit its contents"):
        read(pickle.dumps(lists, protocol).replace(b"K\x02K\x03\x86", b"K\x02K\x04\x86"))
    with pytest.raises(ValueError, match="more than 20 instructions"):
        read_inert_pickle(pickle.dumps(lists, protocol), max_instructions=20)


@pytest.mark.parametrize("protocol", [3, 4])
def test_scalars_and_named_containers(protocol):
    counts = collections.defaultdict(list, {"loss": [(1, 0.5)]})
    data = {"scalar": np.float32(2.5), "dtype": np.dtype("f4"), "counts": counts}
    read_back = read(pickle.dumps(data, protocol))
    assert read_back == {"scalar": np.float32(2.5), "dtype": np.dtype("f4"), "counts": {"loss": [(1, 0.5)]}}
    assert type(read_back["counts"]) is dict
    assert read(pickle.dumps(collections.OrderedDict(a=1), protocol)) == {"a": 1}


class Instruction:
    """Makes pickles by hand."""

    @staticmethod
    def name(module: str, name: str) -> bytes:
        return b"c" + module.encode() + b"\n" + name.encode() + b"\n"

    @staticmethod
    def text(text: str) -> bytes:
        return b"X" + struct.pack("<I", len(text)) + text.encode()


def made(*instructions: bytes) -> bytes:
    return b"\x80\x03" + b"".join(instructions) + b"."


NDARRAY = Instruction.name("numpy.core.multiarray", "_reconstruct") + Instruction.name("numpy", "ndarray")
NDARRAY += b"K\x00\x85C\x01b\x87R"
FLOAT = Instruction.name("numpy", "dtype") + Instruction.text("f4") + b"K\x00K\x01\x87R"
FLOAT += b"(K\x03" + Instruction.text("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
DEEP = b")" + b"\x85" * 200_000  # ((((...))))


def array(shape: bytes, dtype: bytes = FLOAT, content: bytes = b"C\x04abcd") -> bytes:
    return NDARRAY + b"(K\x01" + shape + dtype + b"\x89" + content + b"tb"


def test_the_handmade_array_is_one():
    assert read(made(array(b"K\x01\x85"))).tobytes() == b"abcd"


def calls(module: str, name: str, argument: str = "echo > executed") -> bytes:
    return made(Instruction.name(module, name), Instruction.text(argument), b"\x85R")


CALLS = [
    *[("os", "system"), ("posix", "system"), ("subprocess", "check_output"), ("builtins", "eval")],
    *[("builtins", "exec"), ("builtins", "__import__"), ("builtins", "getattr"), ("builtins", "open")],
    *[("pickle", "loads"), ("_pickle", "loads"), ("copyreg", "_reconstructor"), ("importlib", "import_module")],
    *[("numpy", "load"), ("numpy", "fromfile"), ("numpy", "memmap"), ("numpy.core.multiarray", "frombuffer")],
    *[("numpy.core.multiarray", "fromfile"), ("numpy.testing", "rundocs"), ("numpy", "__builtins__.eval")],
    *[("numpy.core.multiarray", "_reconstruct.__globals__"), ("collections", "namedtuple"), ("builtins", "dict")],
    *[("builtins", "list"), ("numpy", "ndarray"), ("traxx", "y"), ("this", "s"), ("jax", "jit")],
]


@pytest.mark.parametrize(("module", "name"), CALLS)
def test_no_other_function_is_called_and_no_module_imported(module, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "this", raising=False)
    with pytest.raises(ValueError, match=f"{module}.{name}"):
        read(calls(module, name))
    by_stack = Instruction.text(module) + Instruction.text(name) + b"\x93"
    with pytest.raises(ValueError, match=f"{module}.{name}"):
        read(made(by_stack, Instruction.text("echo > executed"), b"\x85R"))
    assert os.listdir(tmp_path) == []
    assert "this" not in sys.modules


def test_a_tolerated_name_is_never_looked_up(monkeypatch):
    content = made(Instruction.name("trax.nowhere", "os.system"), b")\x81", Instruction.text("state"), b"b")
    before = set(sys.modules)
    placeholder = read(content)
    assert (placeholder.name, placeholder.state) == ("trax.nowhere.os.system", "state")
    assert isinstance(placeholder, Placeholder)
    assert set(sys.modules) == before


class Reduces:
    def __init__(self, *how):
        self.how = how

    def __reduce__(self):
        return self.how


@pytest.mark.parametrize(
    "thing",
    [
        Reduces(os.system, ("echo > executed",)),
        [np.zeros(2), {"deep": (Reduces(eval, ("open('executed', 'w')",)),)}],
        np.array([Reduces(os.system, ("echo > executed",)), 1], dtype=object),
        np.array(["text"]),
        np.zeros(2, [("a", "f4"), ("b", "i8")]),
        np.zeros(2, "m8[s]"),
        np.zeros(2, "c8"),
        np.array([b"bytes"]),
        np.float64,
        len,
        {1, 2},
        frozenset({1}),
        bytearray(b"x"),
        2j,
        range(3),
        Exception("x"),
        {(1, 2): 3},
        {1.5: 3},
    ],
    ids=lambda thing: type(thing).__name__,
)
def test_anything_but_plain_data_is_refused(thing, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for protocol in range(6):
        with pytest.raises(ValueError):  # noqa: PT011  many reasons; what counts is that it ends in this one type
            read(pickle.dumps(thing, protocol))
    assert os.listdir(tmp_path) == []


HANDMADE = {
    "memo bomb": made(b"N", b"r\xff\xff\xff\xff", b"0"),
    "a length beyond the end": made(b"\x8e" + struct.pack("<Q", 2**62) + b"x"),
    "a length beyond sanity": made(b"\x8e" + struct.pack("<Q", 2**64 - 1) + b"x"),
    "a negative length": made(b"\x8b" + struct.pack("<i", -5)),
    "a deep tuple as key": made(b"}", DEEP, b"Ns"),
    "a deep tuple as name": made(DEEP, Instruction.text("x"), b"\x93"),
    "a deep tuple as module": made(Instruction.text("x"), DEEP, b"\x93"),
    "a deep tuple called": made(DEEP, b")R"),
    "a deep tuple as array type": made(Instruction.name("numpy", "dtype"), DEEP, b"\x85R"),
    "a deep tuple as byte order": made(
        Instruction.name("numpy", "dtype") + Instruction.text("f4") + b"\x85R(K\x03" + DEEP + b"NNNtb"
    ),
    "a deep tuple as shape": made(array(DEEP)),
    "many lists in one another, called": made(b"]q\x00", b"".join(b"](h\x00h\x00eq\x00" for _ in range(60)), b")R"),
    "a state for a name": made(Instruction.name("trax.x", "Y"), b"}b"),
    "a state for a function": made(Instruction.name("numpy.core.multiarray", "_reconstruct"), b"}b"),
    "a state for a list": made(b"]}b"),
    "a state for a finished array": made(array(b"K\x01\x85"), b")b"),
    "a short state for an array": made(NDARRAY, b"(K\x01tb"),
    "no state for an array's type": made(
        array(b"K\x01\x85", Instruction.name("numpy", "dtype") + Instruction.text("f4") + b"\x85R")
    ),
    "an array that is larger than its bytes": made(array(b"M\xff\xff\x85")),
    "an array that is smaller than its bytes": made(array(b"K\x00\x85")),
    "an array of negative size": made(array(b"J\xff\xff\xff\xffJ\xff\xff\xff\xff\x86")),
    "an array of huge empty axes": made(array(b"K\x00\x8a\x09" + b"\xff" * 8 + b"\x00\x86", content=b"C\x00")),
    "an array of too many axes": made(array(b"(" + b"K\x01" * 40 + b"t")),
    "an array with a text as shape": made(array(Instruction.text("ab"))),
    "an array with a list as content": made(array(b"K\x01\x85", content=b"]K\x07a")),
    "appending to a tuple": made(b")Na"),
    "extending an array": made(array(b"K\x01\x85"), b"(Ne"),
    "setting an item of a list": made(b"]K\x00Ns"),
    "an odd number of keys and values": made(b"}(K\x00u"),
    "a key without hash": made(b"}]Ns"),
    "from an empty stack": made(b"\x85"),
    "an unknown memo": made(b"h\x07"),
    "a mark that is never closed": made(b"N("),
    "a value above an open mark": made(b"(N"),
    "a mark that was never set": made(b"t"),
    "two values": made(b"NN"),
    "no value": made(),
    "more after the end": made(b"N") + b"N.",
    "persistent id": made(b"N", b"Q"),
    "extension": made(b"\x82\x01"),
    "NEWOBJ_EX": made(Instruction.name("trax.x", "Y"), b")}\x92"),
    "INST": b"(ios\nsystem\n.",
    "OBJ": b"(cos\nsystem\no.",
    "out-of-band buffer": b"\x80\x05\x97.",
    "bytearray": b"\x80\x05\x96" + struct.pack("<Q", 1) + b"x.",
    "protocol 0": pickle.dumps([1, 2], 0),
    "not a pickle": b"<html>",
    "nothing": b"",
}


@pytest.mark.parametrize("what", HANDMADE)
def test_tricks(what):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        read(HANDMADE[what])
    assert len(str(caught.value)) < 300
    assert "type-check" not in str(caught.value).lower()  # noticed by us, not by the tests' own checks of types


@pytest.mark.parametrize(
    "content",
    [
        made(DEEP),
        made(b"]" * 200_000, b"a" * 199_999),
        made(b"".join([Instruction.name("trax.x", "Y") + b")\x81"] * 5000), b"b" * 4999),
        made(b"]q\x00h\x00a"),
    ],
    ids=["tuples", "lists", "states", "itself"],
)
def test_depth_is_no_danger(content):
    """Made, and freed again, without recursion."""
    assert type(read(content)) in (tuple, list, Placeholder)


def test_a_bomb_of_instructions_is_stopped(monkeypatch):
    monkeypatch.setattr(inert_pickle, "MAX_INSTRUCTIONS", 1000)
    assert len(read(made(b"(", b"]" * 990, b"t"))) == 990
    with pytest.raises(ValueError, match="more than 1000 instructions"):
        read(made(b"(", b"]" * 1000, b"t"))


SAMPLE = pickle.dumps(
    {"flat_weights": [np.arange(6, dtype="f4").reshape(2, 3)], "n": np.int64(3), "h": {"a": [(1, 2.5)]}}, 3
)


def test_every_cut_is_noticed():
    for length in range(len(SAMPLE)):
        with pytest.raises(ValueError):  # noqa: PT011
            read(SAMPLE[:length])


@pytest.mark.filterwarnings("ignore:invalid escape:DeprecationWarning")
@settings(max_examples=500)
@given(st.data())
def test_damage_is_an_error_or_other_plain_data(data):
    content = bytearray(SAMPLE)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    try:
        read(bytes(content))
    except ValueError as error:
        assert len(str(error)) < 1000  # noqa: PT017


@pytest.mark.filterwarnings("ignore:invalid escape:DeprecationWarning")
@given(st.binary(max_size=200))
def test_noise_is_an_error_or_plain_data(content):
    try:
        read(b"\x80\x03" + content)
    except ValueError as error:
        assert len(str(error)) < 1000  # noqa: PT017
