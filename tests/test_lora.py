"""LoRA: nothing changes at first, nothing but the updates is trained, and they can be merged or saved apart."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zoo
from tests.test_rebuild import MODELS, answer
from zoo import LoRA, TransformerLM, TransformerLMClassifier, add_lora, generate, lora_filter, merge_lora, rebuild
from zoo.lora import LoRALinear
from zoo.nn import Linear
from zoo.rebuild import named_arrays

KEY = jax.random.key(1)
QUERY_AND_HEAD = lambda lm: (lm.stack.blocks.attention.query, lm.head)  # noqa: E731


@pytest.fixture(scope="module")
def lm(fill):
    return fill(lambda key: TransformerLM(MODELS["lm"][1], key=key))


SHAPES = {"stack.blocks.attention.query": [2, 8, 8], "head": [11, 8]}


@pytest.fixture(scope="module")
def tuned(lm, fill):
    """With updates as training might leave them."""
    return fill(lambda key: LoRA(SHAPES, 2, 0.5, key=key)).add_to(lm)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_the_same_with_zeros_and_merges_into_what_it_is_with_updates(name, fill, same_bits):
    make, config = MODELS[name]
    model = fill(lambda key: make(config, key=key))
    adapted = fill(lambda key: add_lora(make(config, key=key), 2, key=key), 1)
    later = LoRA.of(adapted).add_to(model)
    zeros = lambda leaf: jnp.asarray(np.zeros(leaf.shape, leaf.dtype), leaf.dtype)  # noqa: E731
    fresh = eqx.combine(jax.tree.map(zeros, eqx.filter(later, lora_filter(later))), later)
    linears = [leaf for leaf in jax.tree.leaves(model, is_leaf=is_linear) if is_linear(leaf)]
    assert len(jax.tree.leaves(eqx.filter(later, lora_filter(later)))) == 2 * len(linears) > 0
    merge = eqx.filter_jit(merge_lora)
    assert same_bits(merge(fresh), model)

    merged = merge(later)
    compiled = eqx.filter_jit(answer)  # two programs for four models
    before, with_zeros, with_updates, after = (np.asarray(compiled(m)) for m in (model, fresh, later, merged))
    np.testing.assert_allclose(with_zeros, before, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(with_updates, after, rtol=1e-4, atol=1e-4)
    assert np.abs(after - before).max() > 1e-2


def is_linear(node):
    return isinstance(node, Linear)


def test_the_update_is_the_product_of_its_matrices(tuned, lm):
    low = tuned.head.update
    expected = lm.head.weight + 0.5 * np.asarray(low.up, np.float64) @ np.asarray(low.down, np.float64)
    np.testing.assert_allclose(merge_lora(tuned).head.weight, expected, rtol=1e-5, atol=1e-6)


def test_only_the_updates_have_gradients(tuned):
    trained, frozen = eqx.partition(tuned, lora_filter(tuned))
    gradient = eqx.filter_jit(
        eqx.filter_grad(lambda part: jnp.sum(eqx.combine(part, frozen)(jnp.array([3, 1, 4])) ** 2))
    )(trained)
    norms = {name: float(jnp.abs(array).max()) for name, array in named_arrays(gradient).items()}
    assert norms.keys() == {f"{name}.update.{part}" for name in SHAPES for part in ("down", "up")}
    assert min(norms.values()) > 0


def test_a_decoder_has_the_updates_too(tuned, lm):
    ours, merged, base = (
        generate(model.decoder(), [3, 1], max_new_tokens=4).logits for model in (tuned, merge_lora(tuned), lm)
    )
    np.testing.assert_allclose(ours, merged, rtol=1e-4, atol=1e-4)
    assert not np.allclose(ours, base, atol=1e-2)


def test_weights_keep_their_type(tuned):
    def halved(tree):
        return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16) if eqx.is_inexact_array(leaf) else leaf, tree)

    # Also with updates in float32 beside weights in bfloat16, as one trains them.
    for model in (halved(tuned), LoRA.of(tuned).add_to(halved(merge_lora(tuned)))):
        assert merge_lora(model).head.weight.dtype == jnp.bfloat16
        layer = model.stack[0].attention.query
        assert jax.eval_shape(layer, jnp.ones((3, 8), jnp.bfloat16)).dtype == jnp.bfloat16
        assert jax.eval_shape(layer.accumulate, jnp.ones((3, 8), jnp.bfloat16)).dtype == jnp.float32


def test_updates_are_saved_apart_from_the_model(tuned, lm, same_bits, tmp_path):
    zoo.save(tmp_path / "lora.safetensors", LoRA.of(tuned), extra={"base": "mine", "licence": "Apache-2.0"})
    zoo.save(tmp_path / "lm.safetensors", lm)
    again = zoo.load(tmp_path / "lora.safetensors").add_to(zoo.load(tmp_path / "lm.safetensors"))
    assert same_bits(again, tuned)
    assert zoo.read_extra(tmp_path / "lora.safetensors")["licence"] == "Apache-2.0"
    held = sum(array.size for array in named_arrays(zoo.load(tmp_path / "lora.safetensors")).values())
    assert held == 2 * (2 * (8 + 8)) + 2 * (8 + 11)
    with pytest.raises(ValueError, match="changes a model together with its config"):
        zoo.save(tmp_path / "both.safetensors", tuned)


def test_whole_arrays_go_with_the_updates(tuned, lm, tmp_path):
    """As of a new head, which the base has not."""
    zoo.save(tmp_path / "lora.safetensors", LoRA.of(tuned, whole=["final_norm.weight", "head.bias"]))
    again = zoo.load(tmp_path / "lora.safetensors")
    other = eqx.tree_at(lambda lm: lm.final_norm.weight, lm, replace_fn=lambda weight: weight + 1)
    assert bool(eqx.tree_equal(again.add_to(other), tuned))


@pytest.mark.usefixtures("as_users")
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda lm, tuned: LoRA.of(tuned, ["tail.bias"]), "no array called tail.bias; it has embedding.weight"),
        (lambda lm, tuned: LoRA(SHAPES, 2, 1, {"head.bias": [3]}, key=KEY).add_to(lm), r"head.bias of shape \[3\]"),
        (lambda lm, tuned: add_lora(lm, 0, key=KEY), "rank must be a whole number of at least 1, got 0"),
        (lambda lm, tuned: add_lora(lm, 2, scale=0, key=KEY), "scale must be finite and above 0, got 0"),
        (lambda lm, tuned: add_lora(lm, 2, lambda lm: lm.embedding, key=KEY), "where .* got a TokenEmbedding"),
        (lambda lm, tuned: add_lora(lm, 2, lambda lm: lm.stack[0].mlp.up, key=KEY), "parts of the model themselves"),
        (lambda lm, tuned: add_lora(lm, 2, lambda lm: lm.rotary, key=KEY), "where .* got nothing"),
        (lambda lm, tuned: add_lora(tuned, 2, key=KEY), "has updates already: merge_lora"),
        (
            lambda lm, tuned: LoRA.of(tuned, ["head.linear.bias"]),
            "no array called head.linear.bias; it has embedding",
        ),
        (lambda lm, tuned: rebuild(tuned, dropout_p=0.1), "parts that its config does not make .*: merge_lora it"),
        (lambda lm, tuned: rebuild(tuned, vocab_size=13, key=KEY), "parts that its config does not make"),
        (lambda lm, tuned: TransformerLMClassifier.on(tuned, 2, key=KEY), "parts that its config does not make"),
        (lambda lm, tuned: LoRA.of(lm), "TransformerLM has no updates: add_lora"),
        (lambda lm, tuned: LoRA({"tail": [2, 3]}, 2, key=KEY).add_to(lm), "no Linear called tail; it has stack"),
        (lambda lm, tuned: LoRA({"head": [9, 8]}, 2, key=KEY).add_to(lm), r"head is for .* \[9, 8\], .* \[11, 8\]"),
        (lambda lm, tuned: LoRA({}, 2, key=KEY), "shapes must name at least one layer"),
    ],
)
def test_what_cannot_be_is_refused_by_name(wrong, message, lm, tuned):
    with pytest.raises(ValueError, match=message):
        wrong(lm, tuned)


def test_a_chosen_layer_alone_is_exchanged(lm):
    chosen = add_lora(lm, 2, QUERY_AND_HEAD, key=KEY)
    assert LoRA.of(chosen).shapes == SHAPES
    assert isinstance(chosen.head, LoRALinear)
    assert isinstance(chosen.stack.blocks.mlp.up, Linear)
    assert not np.any(chosen.head.update.up)  # so the model is what it was
    down = chosen.head.update.down
    assert 0.5 < float(jnp.std(down)) * np.sqrt(8) < 1.6
    assert not np.allclose(down, chosen.stack.blocks.attention.query.update.down[0])
