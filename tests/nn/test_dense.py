"""Linear and FeedForward against NumPy."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo.nn import FeedForward, Linear

pytestmark = pytest.mark.usefixtures("strict_promotion")

ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x / (1 + np.exp(-x)),
}


@pytest.mark.parametrize("shape", [(), (5,), (2, 5)])
@pytest.mark.parametrize("use_bias", [True, False])
def test_linear_equals_numpy_over_leading_axes(normal, fill, shape, use_bias):
    linear = fill(lambda key: Linear(3, 7, use_bias=use_bias, key=key))
    x = np.asarray(normal(*shape, 3))
    expected = np.einsum("oi,...i->...o", np.asarray(linear.weight), x)
    if linear.bias is not None:
        expected = expected + np.asarray(linear.bias)
    np.testing.assert_allclose(linear(jnp.asarray(x)), expected, atol=1e-5)
    assert (linear.bias is not None) == use_bias


def test_linear_sums_in_float32_under_bfloat16(normal, fill):
    linear = fill(lambda key: Linear(4096, 3, key=key), seed=1, scale=1 / 64)  # not the draws of x
    low = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), linear)
    x = normal(2, 4096).astype(jnp.bfloat16)
    exact = np.asarray(x, np.float64) @ np.asarray(low.weight, np.float64).T + np.asarray(low.bias, np.float64)
    wide = low.accumulate(x)
    assert wide.dtype == jnp.float32
    np.testing.assert_allclose(wide, exact, atol=1e-4)
    assert low(x).dtype == jnp.bfloat16
    np.testing.assert_array_equal(low(x), wide.astype(jnp.bfloat16))


def test_linear_starts_with_the_scale_it_promises(getkey):
    linear = Linear(400, 300, scale=0.5, key=getkey())
    assert abs(float(linear.weight.std()) * math.sqrt(400) - 0.5) < 0.01
    assert (linear.bias == 0).all()


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("gated", [False, True])
def test_feed_forward_equals_numpy(normal, fill, activation, gated):
    mlp = fill(lambda key: FeedForward(3, 8, activation=activation, gated=gated, key=key))
    x = normal(5, 3)

    def through(layer, y):
        return y @ np.asarray(layer.weight, np.float64).T + np.asarray(layer.bias)

    y, act = np.asarray(x, np.float64), ACTIVATIONS[activation]
    hidden = act(through(mlp.gate, y)) * through(mlp.up, y) if gated else act(through(mlp.up, y))
    np.testing.assert_allclose(eqx.filter_jit(mlp)(x), through(mlp.down, hidden), rtol=1e-5, atol=1e-4)
    assert (mlp.gate is not None) == gated


def test_no_bias_means_none_anywhere(fill):
    mlp = fill(lambda key: FeedForward(3, 8, gated=True, use_bias=False, key=key))
    assert [leaf.shape for leaf in jax.tree.leaves(mlp)] == [(8, 3), (8, 3), (3, 8)]


WRONG: list[tuple[type, dict[str, Any], str]] = [
    (Linear, {"in_size": 0, "out_size": 3}, "in_size"),
    (Linear, {"in_size": 3, "out_size": 2.5}, "out_size"),
    (FeedForward, {"embed_size": 3, "mlp_size": 0}, "mlp_size"),
    (FeedForward, {"embed_size": 3, "mlp_size": 4, "activation": "swish"}, "activation .* 'swish'"),
]


@pytest.mark.usefixtures("as_users")
@pytest.mark.parametrize(("make", "arguments", "message"), WRONG)
def test_wrong_arguments_are_named(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments, key=jax.random.key(0))
