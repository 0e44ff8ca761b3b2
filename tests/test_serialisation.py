"""Model files: what comes back is what went in, and nothing else ever does."""

import dataclasses
import json
import random

import equinox as eqx
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import zoo
from zoo import ModelFileError, TransformerLM, TransformerLMConfig, load, read_extra, save
from zoo.serialisation import named_arrays

KEY = jax.random.key(0)


class Scale(eqx.Module):
    """A user's own model."""

    weight: jax.Array
    size: int = eqx.field(static=True)

    def __init__(self, size: int = 3, *, key):
        self.weight = jax.random.normal(key, (size,))
        self.size = size


class Forgetful(eqx.Module):
    """One that does not keep its argument."""

    weight: jax.Array

    def __init__(self, size: int, *, key):
        self.weight = jnp.zeros(size)


@pytest.fixture
def lm(fill):
    config = TransformerLMConfig(
        vocab_size=11,
        embed_size=12,
        num_layers=3,
        num_heads=2,
        mlp_size=20,
        max_length=9,
        activation="silu",
        gated=True,
        num_kv_heads=1,
    )
    return fill(lambda key: TransformerLM(config, key=key))


@pytest.fixture
def file(lm, tmp_path):
    save(tmp_path / "lm.safetensors", lm, extra={"names": ["ä", None, 1.5]})
    return tmp_path / "lm.safetensors"


def test_round_trip(lm, file, same_bits):
    assert same_bits(load(file), lm)
    assert same_bits(load(str(file), TransformerLM), lm)
    assert read_extra(file) == {"names": ["ä", None, 1.5]}


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_types_come_back(lm, same_bits, tmp_path, dtype):
    small = jax.tree.map(
        lambda x: jnp.asarray(np.asarray(x).astype(dtype), dtype) if eqx.is_inexact_array(x) else x, lm
    )
    save(tmp_path / "small", small)
    assert same_bits(load(tmp_path / "small"), small)


def test_arrays_that_do_not_lie_in_order(lm, tmp_path):
    turned = np.random.default_rng(0).normal(size=(12, 11)).astype(np.float32).T  # safetensors alone scrambles it
    lm = eqx.tree_at(lambda m: m.embedding.weight, lm, jnp.asarray(turned))
    save(tmp_path / "m", lm)
    np.testing.assert_array_equal(load(tmp_path / "m").embedding.weight, turned)


def test_other_tools_can_read_the_weights(lm, file):
    tensors = safetensors.numpy.load_file(file)
    assert tensors.keys() == named_arrays(lm).keys()
    np.testing.assert_array_equal(tensors["stack.blocks.mlp.up.weight"], lm.stack.blocks.mlp.up.weight)


def test_a_class_of_ones_own(tmp_path, getkey):
    save(tmp_path / "scale", Scale(4, key=getkey()))
    assert load(tmp_path / "scale", Scale).size == 4
    with pytest.raises(ModelFileError, match="holds a Scale, which zoo does not export"):
        load(tmp_path / "scale")
    with pytest.raises(ModelFileError, match="holds a Scale, not a TransformerLM"):
        load(tmp_path / "scale", TransformerLM)
    with pytest.raises(TypeError, match="does not keep its argument 'size'"):
        save(tmp_path / "forgetful", Forgetful(2, key=getkey()))


def test_only_plain_json_goes_into_a_file(lm, tmp_path):
    for extra in (object(), {"x": float("nan")}, {1j}):
        with pytest.raises(TypeError, match="plain JSON"):
            save(tmp_path / "m", lm, extra=extra)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_loses_nothing(lm, file, monkeypatch):
    before = file.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    for call in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(f"os.{call}", full)
            with pytest.raises(OSError, match="No space left"):
                save(file, lm)
        assert file.read_bytes() == before
        assert [path.name for path in file.parent.iterdir()] == [file.name]


def rewrite(file, change):
    """The file with its header changed and its arrays as they were."""
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    ours = json.loads(header["__metadata__"]["pytree-zoo"])
    change(ours)
    file.write_bytes(safetensors.numpy.save(safetensors.numpy.load(content), {"pytree-zoo": json.dumps(ours)}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h["config"].update(num_layers=4), r"stack.blocks.* is float32\[3, .* takes float32\[4"),
        (lambda h: h.update(version="9.1", config={"color": 1}), "version 9.1.*'color'.*does not know"),
        (lambda h: h["config"].pop("vocab_size"), "can't be built"),
        (lambda h: h["config"].update(tie_embeddings=True), "unknown array.*head"),
        (lambda h: h["config"].update(positions="rotary"), "unknown array.*position_embedding"),
        (lambda h: h["config"].update(gated=False), "unknown array.*gate"),
        (lambda h: h["config"].update(use_head_bias=False), "unknown array.*head.bias"),
        (lambda h: h.update({"class": "generate"}), "which zoo does not export"),
        (lambda h: h.update({"class": "__name__"}), "which zoo does not export"),
        (lambda h: h.update({"class": 3}), "damaged header"),
        (lambda h: h.update({"config": [1]}), "damaged header"),
        (lambda h: h.update({"format": 3}), "format 3"),
        (lambda h: h.pop("extra"), "zoo.save did not write it"),
    ],
)
def test_a_header_that_lies(file, change, message):
    rewrite(file, change)
    with pytest.raises(ModelFileError, match=message) as caught:
        load(file)
    assert str(file) in str(caught.value)


def test_heads_are_part_of_the_file(fill, tmp_path):
    """Two heads and four have the same shapes: only the header tells them apart."""
    config = TransformerLMConfig(vocab_size=11, embed_size=12, num_layers=1, num_heads=2, mlp_size=20, max_length=9)
    two = fill(lambda key: TransformerLM(config, key=key))
    save(tmp_path / "two", two)
    assert load(tmp_path / "two").config.num_heads == 2


def test_what_is_no_model_file(tmp_path):
    for name, content in {
        "empty": b"", "text": b"hello, world", "zeros": bytes(100), "huge": (2**63).to_bytes(8, "little") + b"{}",
        "pickle": b"\x80\x04K\x01.", "plain": safetensors.numpy.save({"x": np.zeros(2)}),
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelFileError, match=name):
            load(tmp_path / name)
        with pytest.raises(ModelFileError, match=name):
            read_extra(tmp_path / name)
    with pytest.raises(ModelFileError, match="folder"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nowhere")


def test_cut_files_are_refused(file):
    content = file.read_bytes()
    for length in [*range(64), *random.Random(0).sample(range(len(content)), 60), len(content) - 1]:
        file.write_bytes(content[:length])
        with pytest.raises(ModelFileError):
            read_extra(file)
    file.write_bytes(content + b"x")
    with pytest.raises(ModelFileError):
        load(file)


def test_summary_counts_everything(lm):
    text = zoo.summary(lm)
    size = sum(x.size for x in jax.tree.leaves(eqx.filter(lm, eqx.is_array)))
    assert f"{size:,}" in text.splitlines()[-1]
    assert zoo.count_parameters(lm) == size
    assert "stack.blocks.mlp.gate" in text
    shapes = eqx.filter_eval_shape(TransformerLM, TransformerLMConfig.llama(), key=jax.random.key(0))
    assert "GB" in zoo.summary(shapes).splitlines()[-1]


# What `load` would not give back equal, `save` refuses before it writes.


def test_a_model_with_exchanged_parts_is_refused_with_the_way_out(lm, file, same_bits, tmp_path, getkey):
    before = file.read_bytes()
    wider = eqx.nn.Linear(12, 30, key=getkey())
    identity = eqx.nn.Identity()
    exchanged = {
        "head": eqx.tree_at(lambda m: m.head, lm, wider),
        "norm": eqx.tree_at(lambda m: m.final_norm, lm, identity),
        "no head": eqx.tree_at(lambda m: m.head, lm, None),
        "a layer of another kind": eqx.tree_at(lambda m: m.head, lm, eqx.nn.Linear(12, 11, key=getkey())),
        "dropout": eqx.tree_at(lambda m: m.dropout.p, lm, 0.7),
        "integers": eqx.tree_at(lambda m: m.head.weight, lm, jnp.zeros((11, 12), int)),
        "another activation": eqx.tree_at(
            lambda m: m.stack.blocks.mlp, lm, with_activation(lm.stack.blocks.mlp, "relu")
        ),
    }
    for what, changed in exchanged.items():
        with pytest.raises(ValueError, match=r"zoo.rebuild .* class of your own") as caught:
            save(file, changed)
        assert "config makes" in str(caught.value), what
    assert file.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1
    save(tmp_path / "quiet", eqx.nn.inference_mode(lm))  # the mode is not part of a file
    assert same_bits(load(tmp_path / "quiet"), lm)


def with_activation(mlp, activation):
    """`dataclasses.replace` would call a constructor that takes other arguments."""
    changed = object.__new__(type(mlp))
    for field in dataclasses.fields(mlp):
        object.__setattr__(changed, field.name, getattr(mlp, field.name))
    object.__setattr__(changed, "activation", activation)
    return changed


def test_a_scalar_array_comes_back_as_one(tmp_path):
    class Scalar(eqx.Module):
        value: jax.Array

        def __init__(self, *, key):
            self.value = jnp.zeros(())

    model = eqx.tree_at(lambda m: m.value, Scalar(key=None), jnp.array(1.5))
    save(tmp_path / "s", model)
    assert load(tmp_path / "s", Scalar).value.shape == ()
    assert load(tmp_path / "s", Scalar).value == 1.5


class Named(eqx.Module):
    parts: dict

    def __init__(self, *, key=None):
        self.parts = {"a.b": jnp.ones(2), "a": {"b": jnp.ones(2)}}


def test_two_arrays_of_one_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"two leaves have the name parts\.a\.b"):
        save(tmp_path / "named", Named())
    assert list(tmp_path.iterdir()) == []


class Typed(eqx.Module):
    x: jax.Array
    dtype: str = eqx.field(static=True)
    shape: tuple = eqx.field(static=True)

    def __init__(self, dtype, shape=(3,), *, key):
        self.x, self.dtype, self.shape = jnp.asarray(np.ones(tuple(shape), jnp.dtype(dtype))), dtype, tuple(shape)


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "complex64", "int4", "uint4"])
def test_types_that_no_file_holds_are_refused_before_writing(tmp_path, dtype):
    with pytest.raises(TypeError, match=f"x is of type {dtype}"):
        save(tmp_path / "t", Typed(dtype, key=KEY))
    with pytest.raises(TypeError, match="key<"):
        save(tmp_path / "t", eqx.tree_at(lambda m: m.x, Typed("float32", key=KEY), jax.random.split(KEY, 3)))
    assert list(tmp_path.iterdir()) == []


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(
    dtype=st.sampled_from(["float32", "bfloat16", "float16", "int32", "int8", "uint8", "uint32", "bool"]),
    shape=st.lists(st.integers(0, 4), max_size=4),
    seed=st.integers(0, 100),
)
def test_types_and_shapes_come_back(tmp_path_factory, dtype, shape, seed):
    values = np.random.default_rng(seed).normal(size=shape).astype(jnp.dtype(dtype))
    path = tmp_path_factory.mktemp("types") / "x"
    model = eqx.tree_at(lambda m: m.x, Typed(dtype, shape, key=KEY), jnp.asarray(values))
    save(path, model)
    loaded = load(path, Typed)
    assert isinstance(loaded.x, jax.Array)
    assert jax.tree.structure(loaded) == jax.tree.structure(model)
    assert (loaded.x.dtype, loaded.x.shape, loaded.x.tobytes()) == (values.dtype, values.shape, values.tobytes())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda items: st.lists(items, max_size=3) | st.dictionaries(st.text(), items, max_size=3),
    max_leaves=8,
)
ANYTHING = st.recursive(
    JSON | st.binary() | st.floats() | st.complex_numbers() | st.just(np.float32(1)) | st.just(np.int64(3)),
    lambda items: (
        st.lists(items, max_size=3)
        | st.tuples(items, items)
        | st.dictionaries(st.text() | st.integers() | st.booleans() | st.none(), items, max_size=3)
    ),
    max_leaves=6,
)


@hypothesis.settings(deadline=None, max_examples=150)
@hypothesis.given(extra=JSON | ANYTHING)
def test_extra_comes_back_equal_or_is_refused(tmp_path_factory, extra):
    path = tmp_path_factory.mktemp("extra") / "x"
    try:
        save(path, Typed("float32", key=KEY), extra=extra)
    except TypeError as error:
        assert not path.exists()
        assert "plain JSON" in str(error)  # noqa: PT017
        return
    lists = json.loads(json.dumps(extra))
    assert read_extra(path) == lists

    def same(given, found):
        if isinstance(given, list | tuple):
            assert isinstance(found, list)
            assert len(given) == len(found)
            for pair in zip(given, found, strict=True):
                same(*pair)
        elif isinstance(given, dict):
            assert given.keys() == found.keys()
            for key in given:
                same(given[key], found[key])
        else:
            assert given == found

    same(extra, lists)


def test_headers_of_any_length_are_read(tmp_path):
    """Some lengths of a header begin as a pickle or an archive does: 0x0280 is 640."""
    model = Typed("float32", key=KEY)
    seen = set()
    for size in [*range(300, 700, 8), *range(35_600, 35_800, 8), *range(19_200, 19_400, 8)]:
        save(tmp_path / "m", model, extra="x" * size)
        content = (tmp_path / "m").read_bytes()
        seen.add(content[:2])
        assert read_extra(tmp_path / "m") == "x" * size
    assert {b"\x80\x02", b"\x80\x03"} <= seen


@pytest.mark.slow
def test_ten_thousand_header_lengths(tmp_path):
    model = Typed("float32", key=KEY)
    for size in range(10_000):
        save(tmp_path / "m", model, extra="x" * size)
        assert read_extra(tmp_path / "m") == "x" * size
        assert load(tmp_path / "m", Typed).dtype == "float32"


def test_a_missing_folder_and_a_folder_in_its_place_are_named(tmp_path, lm):
    with pytest.raises(FileNotFoundError, match=r"No such folder.*nowhere") as caught:
        save(tmp_path / "nowhere" / "m", lm)
    assert ".tmp" not in str(caught.value)
    with pytest.raises(IsADirectoryError, match="folder"):
        save(tmp_path, lm)


def test_too_much_extra_is_refused(tmp_path):
    with pytest.raises(ValueError, match="100 MB"):
        save(tmp_path / "m", Typed("float32", key=KEY), extra="x" * 100_000_001)
    assert list(tmp_path.iterdir()) == []


def test_numpy_arrays_in_a_model_are_saved_too(tmp_path):
    model = eqx.tree_at(lambda m: m.x, Typed("float32", key=KEY), np.array([1.0, 2.0, 3.0], np.float32))
    save(tmp_path / "m", model)
    np.testing.assert_array_equal(load(tmp_path / "m", Typed).x, [1.0, 2.0, 3.0])


def test_doubles_need_x64(tmp_path):
    with jax.enable_x64(True):
        model = Typed("float64", key=KEY)
        save(tmp_path / "m", model)
        assert load(tmp_path / "m", Typed).x.dtype == np.float64
    with pytest.raises(ModelFileError, match="JAX_ENABLE_X64"):
        load(tmp_path / "m", Typed)
