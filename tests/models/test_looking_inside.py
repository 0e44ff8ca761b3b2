"""What a model attends to and what its layers hold, against its blocks called one by one."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo import (
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
    config = TransformerLMConfig(**SIZES, num_layers=5, max_length=8, **choices)
    return TransformerLM(config, key=jax.random.key(0))


ENCODERS = {
    "TextEncoder": TextEncoder(
        TextEncoderConfig.bert(**SIZES, num_layers=2, max_length=8, head="none"), key=jax.random.key(1)
    ),
    "TransformerClassifier": TransformerClassifier(
        TransformerClassifierConfig(**SIZES, num_classes=2, num_layers=2, max_length=8), key=jax.random.key(2)
    ),
}


def by_hand(attention, x, allowed):
    """The weights of one attention, from its projections, in NumPy."""
    queries, keys = np.asarray(attention.project_queries(x)), np.asarray(attention.project_keys_values(x)[0])
    keys = np.repeat(keys, len(queries) // len(keys), axis=0)
    scores = np.where(allowed, queries @ keys.swapaxes(1, 2) * attention.scale, -np.inf)
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize(
    "choices", [{}, {"window": 3, "num_kv_heads": 1}, {"positions": "rotary", "qk_norm": True}], ids=str
)
def test_a_language_model_looks_back(choices):
    lm = language_model(**choices)
    looks = lm.attention_weights, lm.hidden_states
    weights, states = (np.asarray(eqx.filter_jit(look)(TOKENS)) for look in looks)
    assert weights.shape == (5, 2, 7, 7)
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0, atol=1e-6)
    far = np.arange(7)[None, :] > np.arange(7)[:, None]
    if "window" in choices:
        far |= np.arange(7)[None, :] <= np.arange(7)[:, None] - 3
    assert not np.any(weights * far)
    assert np.all(np.where(far, 1.0, weights) > 0)
    last = jax.vmap(lm.final_norm)(states[-1])
    np.testing.assert_allclose(last, eqx.nn.inference_mode(lm).hidden(TOKENS), atol=1e-5)
    assert states.shape == (6, 7, 8)
    if "positions" not in choices:
        block = lm.stack[2]
        x = jax.vmap(block.attention_norm)(states[2])
        np.testing.assert_allclose(weights[2], by_hand(block.attention, x, ~far), atol=1e-5)


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_looks_at_all_but_padding(name):
    model = ENCODERS[name]
    weights, states = model.attention_weights(TOKENS, LENGTH), model.hidden_states(TOKENS, LENGTH)
    assert weights.shape == (2, 2, 7, 7)
    assert not jnp.any(weights[..., LENGTH:])
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0, atol=1e-6)
    block = model.stack[1]
    x = jax.vmap(block.attention_norm)(states[1]) if block.pre_norm else states[1]
    np.testing.assert_allclose(weights[1], by_hand(block.attention, x, np.arange(7) < LENGTH), atol=1e-5)
    found = eqx.nn.inference_mode(model).encode(TOKENS, LENGTH)
    last = states[-1] if getattr(model, "final_norm", None) is None else jax.vmap(model.final_norm)(states[-1])
    np.testing.assert_allclose(last, found, atol=1e-5)
