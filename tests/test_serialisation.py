"""Model files: what comes back is what went in, and nothing else ever does."""

import json
import random

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import zoo
from zoo import ModelFileError, TransformerLM, load, read_extra, save
from zoo.serialisation import named_arrays


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
def lm(getkey):
    return TransformerLM(11, 12, 3, 2, 20, 9, activation="silu", gated=True, num_kv_heads=1, key=getkey())


@pytest.fixture
def file(lm, tmp_path):
    save(tmp_path / "lm.safetensors", lm, extra={"names": ["ä", None, 1.5]})
    return tmp_path / "lm.safetensors"


def test_round_trip(lm, file):
    assert eqx.tree_equal(load(file), lm, typematch=True)
    assert eqx.tree_equal(load(str(file), TransformerLM), lm)
    assert read_extra(file) == {"names": ["ä", None, 1.5]}


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_types_come_back(lm, tmp_path, dtype):
    small = jax.tree.map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, lm)
    save(tmp_path / "small", small)
    assert eqx.tree_equal(load(tmp_path / "small"), small, typematch=True)


def test_arrays_that_do_not_lie_in_order(tmp_path, getkey):
    lm = TransformerLM(5, 4, 1, 1, 8, 6, key=getkey())
    turned = np.asarray(jax.random.normal(getkey(), (4, 5))).T  # safetensors alone would write this scrambled
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
        (lambda h: h["arguments"].update(num_layers=4), r"stack.blocks.* is float32\[3, .* takes float32\[4"),
        (lambda h: h["arguments"].update(num_heads=5), "can't be built"),
        (lambda h: h["arguments"].update(color="red"), "can't be built"),
        (lambda h: h["arguments"].pop("vocab_size"), "can't be built"),
        (lambda h: h["arguments"].update(tie_embeddings=True), "unknown array.*head"),
        (lambda h: h["arguments"].update(positions="rotary"), "unknown array.*position_embedding"),
        (lambda h: h["arguments"].update(gated=False), "unknown array.*gate"),
        (lambda h: h["arguments"].update(use_head_bias=False), "unknown array.*head.bias"),
        (lambda h: h.update({"class": "generate"}), "which zoo does not export"),
        (lambda h: h.update({"class": "__name__"}), "which zoo does not export"),
        (lambda h: h.update({"class": 3}), "damaged header"),
        (lambda h: h.update({"arguments": [1]}), "damaged header"),
        (lambda h: h.update({"format": 2}), "format 2"),
        (lambda h: h.pop("extra"), "zoo.save did not write it"),
    ],
)
def test_a_header_that_lies(file, change, message):
    rewrite(file, change)
    with pytest.raises(ModelFileError, match=message) as caught:
        load(file)
    assert str(file) in str(caught.value)


def test_heads_are_part_of_the_file(getkey, tmp_path):
    """Two heads and four have the same shapes: only the header tells them apart."""
    two = TransformerLM(11, 12, 1, 2, 20, 9, key=getkey())
    save(tmp_path / "two", two)
    assert load(tmp_path / "two").num_heads == 2


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
    shapes = eqx.filter_eval_shape(TransformerLM, 50_000, 4096, 32, 32, 16_384, 4096, key=jax.random.key(0))
    assert "GB" in zoo.summary(shapes).splitlines()[-1]
