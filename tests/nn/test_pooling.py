"""Pooling over what is real, against slices."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.nn import masked_max, masked_mean


def test_a_length_beyond_the_rows_is_all_of_them():
    np.testing.assert_array_equal(masked_mean(jnp.array([[1.0], [2.0]]), 4), [1.5])
    np.testing.assert_array_equal(masked_max(jnp.array([[1.0], [2.0]]), 4), [2.0])


@settings(deadline=None, max_examples=30)  # it compiles for each shape
@given(st.integers(0, 5), st.integers(0, 2**31))
def test_padding_is_as_if_cut_off(length, seed):
    x = np.random.default_rng(seed).normal(-3, 1, (5, 3)).astype(np.float32)
    x[length:] = np.random.default_rng(seed).choice([9.0, np.nan, np.inf], (5 - length, 3))
    expected = (x[:length].mean(axis=0), x[:length].max(axis=0)) if length else (np.zeros(3), np.zeros(3))
    for pool, value in zip((masked_mean, masked_max), expected, strict=True):
        np.testing.assert_allclose(pool(jnp.asarray(x), length), value, rtol=1e-6)
        np.testing.assert_allclose(pool(jnp.asarray(x), jnp.array(length)), value, rtol=1e-6)


def test_types_stay():
    for dtype in (jnp.bfloat16, jnp.float32):
        assert masked_mean(jnp.ones((4, 2), dtype), 3).dtype == dtype
        assert masked_max(jnp.ones((4, 2), dtype), 3).dtype == dtype


@pytest.mark.parametrize(("rows", "size"), [(8, 12), (16, 7)])
def test_the_gradient_of_a_maximum_is_not_lost_in_fusions(normal, rows, size):
    """XLA computed these norms twice, rounded differently, and `jnp.max` then found no entry equal to its maximum."""
    norm, head, xs = eqx.nn.LayerNorm(size), normal(2 * size), normal(rows, 5, size)

    def loss(parameters, maximum):
        def one(x):
            y = jax.vmap(eqx.tree_at(lambda n: (n.weight, n.bias), norm, parameters))(x)
            return head @ jnp.concatenate([masked_mean(y, 4), maximum(y)])

        return jnp.sum(jnp.tanh(jax.vmap(one)(xs)))

    def by_index(y):
        return jnp.take_along_axis(y[:4], jnp.argmax(y[:4], axis=0)[None], axis=0)[0]

    parameters = normal(size), normal(size)
    ours = jax.jit(jax.grad(lambda parameters: loss(parameters, lambda y: masked_max(y, 4))))(parameters)
    expected = jax.jit(jax.grad(lambda parameters: loss(parameters, by_index)))(parameters)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5), ours, expected)


def test_equal_largest_entries_share_the_gradient():
    x = jnp.array([[1.0, -2.0, 0.0], [1.0, -3.0, 5.0], [9.0, 9.0, 9.0]])
    gradient = jax.grad(lambda x: jnp.sum(masked_max(x, 2)))(x)
    np.testing.assert_array_equal(gradient, [[0.5, 1.0, 0.0], [0.5, 0.0, 1.0], [0.0, 0.0, 0.0]])
    tangent = jax.jvp(lambda x: masked_max(x, 2), (x,), (jnp.arange(9.0).reshape(3, 3),))[1]
    np.testing.assert_array_equal(tangent, [1.5, 1.0, 5.0])
    np.testing.assert_array_equal(jax.grad(lambda x: jnp.sum(masked_max(x, 0)))(x), np.zeros((3, 3)))
