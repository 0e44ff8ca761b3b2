"""Dropout of numbers, of whole tokens and of whole channels."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo.nn.dropout import ChannelDropout, Dropout, TokenDropout


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
        with pytest.raises(ValueError, match="dropout_p"):
            Dropout(p)


def test_dropout_is_that_of_equinox_number_for_number():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 7, 11)), jnp.float32)
    for p in (0.001, 0.1, 0.25, 0.5, 0.9):
        for seed in range(3):
            key = jax.random.key(seed)
            for part in (x, x[0], x[:, 0, 0], x[0, 0, 0]):
                np.testing.assert_array_equal(Dropout(p)(part, key=key), eqx.nn.Dropout(p)(part, key=key))
    keys = jax.random.split(jax.random.key(4), 3)
    ours, theirs = (jax.vmap(lambda x, key, layer=layer: layer(x, key=key))(x, keys) for layer in (
        Dropout(0.3), eqx.nn.Dropout(0.3),
    ))  # fmt: skip
    np.testing.assert_array_equal(ours, theirs)
    for impl in ("rbg", "unsafe_rbg"):
        key = jax.random.key(5, impl=impl)
        np.testing.assert_array_equal(Dropout(0.3)(x, key=key), eqx.nn.Dropout(0.3)(x, key=key))
    raw = jax.random.PRNGKey(5)
    np.testing.assert_array_equal(Dropout(0.3)(x, key=raw), eqx.nn.Dropout(0.3)(x, key=raw))


def test_numbers_go_at_their_rate_with_any_generator():
    for impl in ("threefry2x32", "rbg", "unsafe_rbg"):
        keys = jax.random.split(jax.random.key(0, impl=impl))
        gone = [np.asarray(Dropout(0.2)(jnp.ones(50_000), key=key)) == 0 for key in keys]
        for mask in gone:
            assert abs(mask.mean() - 0.2) < 0.01
        assert abs(np.corrcoef(*gone)[0, 1]) < 0.02


def test_the_gradient_is_the_scale_where_a_number_was_kept():
    x, dropout, key = jnp.arange(1.0, 8.0), Dropout(0.25), jax.random.key(3)
    gradient = jax.grad(lambda x: dropout(x, key=key).sum())(x)
    np.testing.assert_allclose(gradient * x, dropout(x, key=key), rtol=1e-6)


def test_the_probability_of_a_made_model_may_change_or_be_an_array():
    x, key = jnp.ones(1000), jax.random.key(4)
    changed = eqx.tree_at(lambda dropout: dropout.p, Dropout(0.1), 0.5)
    members = jax.vmap(lambda p: eqx.tree_at(lambda d: d.p, Dropout(0.1), p)(x, key=key))(jnp.array([0.5, 0.0]))
    np.testing.assert_array_equal(members[0], changed(x, key=key))
    np.testing.assert_array_equal(members[1], x)


def test_without_a_key_or_in_inference():
    x = jnp.ones(5, jnp.bfloat16)
    with pytest.raises(RuntimeError, match="key"):
        Dropout(0.5)(x)
    assert eqx.nn.inference_mode(Dropout(0.5))(x) is x
    assert Dropout(0.0)(x) is x
    assert Dropout(0.5)(x, key=jax.random.key(0)).dtype == jnp.bfloat16
    assert Dropout(0.5)(jnp.ones(()), key=jax.random.key(0)).shape == ()
