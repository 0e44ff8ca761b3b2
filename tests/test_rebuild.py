"""`rebuild`: a changed config with the weights of the model at hand, for all models, through files too."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo import (
    CharRNN,
    CharRNNConfig,
    EncoderDecoder,
    EncoderDecoderConfig,
    TextConvNet,
    TextConvNetConfig,
    TransformerClassifier,
    TransformerClassifierConfig,
    TransformerLM,
    TransformerLMConfig,
    load,
    rebuild,
    save,
)
from zoo.rebuild import named_arrays

LM = TransformerLMConfig(vocab_size=11, embed_size=8, num_layers=2, num_heads=2, mlp_size=12, max_length=6)
PAIR = EncoderDecoderConfig(vocab_size=11, embed_size=8, num_heads=2, mlp_size=12, max_length=6)
MODELS = {
    "lm": (TransformerLM, LM),
    "rnn": (CharRNN, CharRNNConfig(vocab_size=11, hidden_size=6, num_layers=2)),
    "pair": (EncoderDecoder, PAIR),
    "convnet": (
        TextConvNet,
        TextConvNetConfig(vocab_size=11, num_classes=3, embed_size=4, num_filters=4, hidden_size=None),
    ),
    "classifier": (TransformerClassifier, TransformerClassifierConfig(vocab_size=11, num_classes=3, max_length=6)),
}
KEY = jax.random.key(1, impl="unsafe_rbg")  # the kind that compiles fastest


@pytest.fixture(params=MODELS)
def model(request, fill):
    make, config = MODELS[request.param]
    return fill(lambda key: make(config, key=key))


def answer(model):
    tokens = jnp.array([3, 1, 4])
    out = eqx.filter_jit(eqx.nn.inference_mode(model))(*([tokens] * (2 if isinstance(model, EncoderDecoder) else 1)))
    return out[0] if isinstance(out, tuple) else out


def changes_of(model) -> Any:
    """All that changes shapes."""
    changes = {"vocab_size": 14, "max_length": 9, "num_classes": 5}
    return {name: value for name, value in changes.items() if hasattr(model.config, name)}


def test_another_dropout_or_remat_changes_no_array(model, same_bits):
    changes: Any = {"dropout_p": 0.3} | ({"remat": True} if hasattr(model.config, "remat") else {})
    changed = rebuild(model, **changes)
    assert changed.config.dropout_p == 0.3
    assert same_bits(named_arrays(changed), named_arrays(model))
    np.testing.assert_array_equal(answer(changed), answer(model))
    assert 0.3 in [leaf for leaf in jax.tree.leaves(changed) if isinstance(leaf, float)]


def test_another_shape_keeps_what_both_have(model, same_bits, tmp_path):
    save(tmp_path / "old", model)
    changes, old = changes_of(model), named_arrays(model)
    for name, value in changes.items():
        with pytest.raises(ValueError, match=r"need a key.* -> "):
            rebuild(model, **{name: value})
        with pytest.raises(ValueError, match="need a key"):
            load(tmp_path / "old", **{name: value})
        wanted = eqx.filter_eval_shape(rebuild, model, key=KEY, **{name: value})
        assert any(old[part].shape != array.shape for part, array in named_arrays(wanted).items())
    changed, kept = rebuild(model, key=KEY, **changes), answer(model)
    np.testing.assert_allclose(answer(changed)[..., : kept.shape[-1]], kept, atol=1e-6)
    assert same_bits(load(tmp_path / "old", key=KEY, **changes), changed)
    save(tmp_path / "new", changed)
    assert same_bits(load(tmp_path / "new"), changed)


def test_new_entries_are_those_of_a_fresh_model(fill):
    small = fill(lambda key: TransformerLM(LM, key=key))
    wide = rebuild(small, key=KEY, vocab_size=20)
    fresh = eqx.filter_jit(TransformerLM)(dataclasses.replace(LM, vocab_size=20), key=KEY)
    np.testing.assert_allclose(wide.embedding.weight[11:], fresh.embedding.weight[11:], rtol=1e-6)
    np.testing.assert_array_equal(wide.embedding.weight[:11], small.embedding.weight)
    deep = rebuild(small, key=KEY, num_layers=3)
    np.testing.assert_array_equal(deep.stack.blocks.mlp.up.weight[:2], small.stack.blocks.mlp.up.weight)


def test_parts_come_and_go_with_a_key_alone(fill):
    lm = fill(lambda key: TransformerLM(LM, key=key))
    every: Any = ({"tie_embeddings": True}, {"gated": True}, {"positions": "none"})
    for changes in every:
        with pytest.raises(ValueError, match=r"\(none\)"):
            rebuild(lm, **changes)
        assert named_arrays(rebuild(lm, key=KEY, **changes)).keys() != named_arrays(lm).keys()


def test_new_parts_have_the_type_that_all_others_have(fill):
    lm = fill(lambda key: TransformerLM(LM, key=key))
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16) if eqx.is_array(x) else x, lm)
    mixed = eqx.tree_at(lambda lm: lm.head, half, lm.head)
    for model, new in ((half, jnp.bfloat16), (mixed, jnp.float32)):
        changed = named_arrays(rebuild(model, key=KEY, gated=True))
        assert {changed[name].dtype for name in changed.keys() - named_arrays(lm).keys()} == {jnp.dtype(new)}


def test_types_and_mode_stay(fill):
    lm = fill(lambda key: TransformerLM(LM, key=key))
    lm = jax.tree.map(lambda x: x.astype(jnp.bfloat16) if eqx.is_array(x) else x, eqx.nn.inference_mode(lm))
    changed = rebuild(lm, key=KEY, max_length=8)
    assert {x.dtype for x in named_arrays(changed).values()} == {jnp.dtype(jnp.bfloat16)}
    assert changed.dropout.inference
    assert changed.stack.blocks.dropout.inference
    assert rebuild(changed, dropout_p=0.5).dropout.inference is not False


def test_models_that_differ_in_dropout_alone_are_averaged(fill):
    one, two = (
        fill(lambda key, p=p: TransformerLM(dataclasses.replace(LM, dropout_p=p), key=key), seed=i)
        for i, p in enumerate((0.1, 0.2))
    )
    with pytest.raises(ValueError, match="different pytree metadata"):
        jax.tree.map(lambda a, b: (a + b) / 2, one, two)
    mean = jax.tree.map(lambda a, b: (a + b) / 2, one, rebuild(two, dropout_p=0.1))
    expected = (one.head.weight + two.head.weight) / 2
    np.testing.assert_array_equal(mean.head.weight, expected)
    assert mean.config == one.config


def test_wrong_changes_are_named(fill):
    lm = fill(lambda key: TransformerLM(LM, key=key))
    with pytest.raises(TypeError, match="no field 'colour'"):
        rebuild(lm, colour="red")
    with pytest.raises(ValueError, match="dropout_p"):
        rebuild(lm, dropout_p=1.5)
    with pytest.raises(TypeError, match="Linear has no config"):
        rebuild(eqx.nn.Linear(2, 2, key=KEY), use_bias=False)
    changed = eqx.tree_at(lambda m: m.head, lm, None)
    with pytest.raises(ValueError, match=r"head.weight \(none\)"):
        rebuild(changed, dropout_p=0.2)


def test_tree_at_on_arrays_works_as_ever(fill):
    lm = fill(lambda key: TransformerLM(LM, key=key))
    zeroed = eqx.tree_at(lambda m: m.head.weight, lm, jnp.zeros_like(lm.head.weight))
    assert (zeroed.head.weight == 0).all()
    assert zeroed.config == lm.config
