"""What a model attends to and what its layers hold, against its blocks called one by one."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo import (
    T5,
    EncoderDecoder,
    EncoderDecoderConfig,
    T5Config,
    TextEncoder,
    TextEncoderConfig,
    TransformerClassifier,
    TransformerClassifierConfig,
    TransformerLM,
    TransformerLMConfig,
)

SIZES: dict = {"vocab_size": 11, "embed_size": 8, "num_heads": 2, "mlp_size": 12, "dropout_p": 0.3}
TOKENS = jnp.array([3, 1, 4, 1, 5, 9, 2])
LENGTH = 5  # of an encoder's text


def language_model(**choices):
    return TransformerLM, TransformerLMConfig(**SIZES, num_layers=5, max_length=8, **choices)


ENCODERS = (
    (TextEncoder, TextEncoderConfig.bert(**SIZES, num_layers=2, max_length=8, head="none")),
    (TransformerClassifier, TransformerClassifierConfig(**SIZES, num_classes=2, num_layers=2, max_length=8)),
)


@eqx.filter_jit
def inside(model, *arguments):
    """What a model attends to, what its layers hold, that after its last norm, and what it makes of it."""
    states = model.hidden_states(*arguments)
    norm = getattr(model, "final_norm", None)
    last = states[-1] if norm is None else jax.vmap(norm)(states[-1])
    silent = eqx.nn.inference_mode(model)
    out = silent.encode(*arguments) if hasattr(silent, "encode") else silent.hidden(*arguments)
    return model.attention_weights(*arguments), states, last, out


@eqx.filter_jit
def heads(attention, x):
    return attention.project_queries(x), attention.project_keys_values(x)[0]


def by_hand(attention, x, allowed):
    """The weights of one attention, from its projections, in NumPy."""
    queries, keys = map(np.asarray, heads(attention, x))
    keys = np.repeat(keys, len(queries) // len(keys), axis=0)
    scores = np.where(allowed, queries @ keys.swapaxes(1, 2) * attention.scale, -np.inf)
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize(
    "choices", [{}, {"window": 3, "num_kv_heads": 1}, {"positions": "rotary", "qk_norm": True}], ids=str
)
def test_a_language_model_looks_back(choices, fill):
    make, config = language_model(**choices)
    lm = fill(lambda key: make(config, key=key))
    weights, states, last, out = map(np.asarray, inside(lm, TOKENS))
    assert weights.shape == (5, 2, 7, 7)
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0, atol=1e-6)
    far = np.arange(7)[None, :] > np.arange(7)[:, None]
    if "window" in choices:
        far |= np.arange(7)[None, :] <= np.arange(7)[:, None] - 3
    assert not np.any(weights * far)
    assert np.all(np.where(far, 1.0, weights) > 0)
    np.testing.assert_allclose(last, out, atol=1e-5)
    assert states.shape == (6, 7, 8)
    if "positions" not in choices:
        block = lm.stack[2]
        x = jax.vmap(block.attention_norm)(jnp.asarray(states[2], jnp.float32))
        np.testing.assert_allclose(weights[2], by_hand(block.attention, x, ~far), atol=1e-5)


@pytest.mark.parametrize(("make", "config"), ENCODERS, ids=lambda value: getattr(value, "__name__", ""))
def test_an_encoder_looks_at_all_but_padding(make, config, fill):
    model = fill(lambda key: make(config, key=key))
    weights, states, last, out = map(np.asarray, inside(model, TOKENS, LENGTH))
    assert weights.shape == (2, 2, 7, 7)
    assert not np.any(weights[..., LENGTH:])
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0, atol=1e-6)
    block = model.stack[1]
    x = jnp.asarray(states[1], jnp.float32)
    x = jax.vmap(block.attention_norm)(x) if block.pre_norm else x
    np.testing.assert_allclose(weights[1], by_hand(block.attention, x, np.arange(7) < LENGTH), atol=1e-5)
    np.testing.assert_allclose(last, out, atol=1e-5)


TRANSLATORS = (
    (EncoderDecoder, EncoderDecoderConfig(**SIZES, num_layers=1, max_length=8, pre_norm=True)),
    (T5, T5Config(**SIZES, num_layers=1)),
)


@pytest.mark.parametrize(("cls", "config"), TRANSLATORS, ids=["EncoderDecoder", "T5"])
def test_where_a_translator_looks(cls, config):
    """Of one layer, from the projections of its cross-attention; dropout has no part in it."""
    model = eqx.filter_jit(cls)(config, key=jax.random.key(0))
    source, target = TOKENS, jnp.array([0, 6, 2, 7])

    @eqx.filter_jit
    def parts(model):
        silent = eqx.nn.inference_mode(model)
        (block,) = silent.decoder_stack.unstack()
        x, bias = silent.embed_target(target)
        x = x + block.attention(jax.vmap(block.attention_norm)(x), causal=True, bias=bias)
        queries = block.cross_attention.project_queries(jax.vmap(block.cross_attention_norm)(x))
        keys = block.cross_attention.project_keys_values(silent.encode(source))[0]
        return queries, keys, block.cross_attention.scale

    queries, keys, scale = map(np.asarray, parts(model))
    powers = np.exp(queries @ keys.swapaxes(1, 2) * scale)
    weights = eqx.filter_jit(cls.cross_attention_weights)(model, source, target)
    np.testing.assert_allclose(weights, (powers / powers.sum(axis=-1, keepdims=True))[None], rtol=1e-4, atol=1e-6)
