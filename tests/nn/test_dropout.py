"""Dropout of whole tokens and of whole channels."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo.nn.dropout import ChannelDropout, TokenDropout


def test_tokens_are_replaced_at_their_rate():
    dropout = TokenDropout(0.3, replacement=2)
    tokens = jnp.full(20_000, 7)
    out = np.asarray(dropout(tokens, key=jax.random.key(0)))
    assert set(out) == {2, 7}
    assert abs(np.mean(out == 2) - 0.3) < 0.02
    np.testing.assert_array_equal(eqx.nn.inference_mode(dropout)(tokens), tokens)
    np.testing.assert_array_equal(TokenDropout(0.0, 2)(tokens), tokens)
    with pytest.raises(RuntimeError, match="key"):
        dropout(tokens)


def test_a_channel_goes_as_a_whole_and_the_mean_stays():
    dropout = ChannelDropout(0.25)
    out = np.asarray(dropout(jnp.ones((3, 4000)), key=jax.random.key(0)))
    assert (out == out[:1]).all()
    np.testing.assert_allclose(sorted(set(out[0])), [0, 1 / 0.75], rtol=1e-6)
    assert abs(np.mean(out[0] == 0) - 0.25) < 0.04
    np.testing.assert_array_equal(eqx.nn.inference_mode(dropout)(jnp.ones((3, 4))), np.ones((3, 4)))
    assert dropout(jnp.ones((3, 4), jnp.bfloat16), key=jax.random.key(0)).dtype == jnp.bfloat16


def test_probabilities_are_checked():
    for p in (1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="token_dropout_p"):
            TokenDropout(p, 0)
        with pytest.raises(ValueError, match="channel_dropout_p"):
            ChannelDropout(p)
