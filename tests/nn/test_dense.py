"""Linear and FeedForward against NumPy."""

import functools
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from jaxtyping import Float

from zoo.nn import AbstractLinear, Convolution, FeedForward, GRUCell, Linear, LSTMCell, gelu, run_cell

pytestmark = pytest.mark.usefixtures("strict_promotion")

ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x / (1 + np.exp(-x)),
}


def test_gelu_is_jaxs_and_rounds_no_more_than_its_type_does():
    x = jnp.linspace(-9.0, 9.0, 2001)
    exact = functools.partial(jax.nn.gelu, approximate=False)
    np.testing.assert_allclose(gelu(x), exact(x), atol=2e-6)
    slopes = (jax.vmap(jax.grad(function))(x) for function in (gelu, exact))
    np.testing.assert_allclose(next(slopes), next(slopes), atol=1e-6)
    low = x.astype(jnp.bfloat16)
    np.testing.assert_array_equal(gelu(low), gelu(low.astype(jnp.float32)).astype(jnp.bfloat16))


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


class LowRank(AbstractLinear):
    """An adapter as a user would write it: a `Linear` and an update of rank 2."""

    linear: AbstractLinear
    down: Float[Array, "2 in"]
    up: Float[Array, "out 2"]

    def accumulate(self, x):
        update = x.astype(jnp.float32) @ self.down.T @ self.up.T
        return self.linear.accumulate(x) + update

    def __call__(self, x):
        return self.accumulate(x).astype(x.dtype)


X = jnp.asarray(np.random.default_rng(1).normal(size=(5, 4)), jnp.float32)
ADAPTED = {
    "FeedForward": (functools.partial(FeedForward, 4, 6, gated=True), lambda mlp: mlp(X)),
    "Convolution": (functools.partial(Convolution, 4, 3, kernel_size=2), lambda convolution: convolution(X, 4)[0]),
    "GRUCell": (functools.partial(GRUCell, 4, 3), lambda cell: run_cell(cell, cell.input(X), cell.init_state())),
    "LSTMCell, ids": (
        functools.partial(LSTMCell, 4, 3),
        lambda cell: run_cell(cell, cell.project_ids(jnp.array([2, 0, 3, 2]), 4), cell.init_state()),
    ),
}


@pytest.mark.parametrize("name", ADAPTED)
def test_an_adapter_in_place_of_every_linear_is_the_layer_with_its_weights(name, fill, normal):
    make, use = ADAPTED[name]
    is_linear = lambda node: isinstance(node, Linear)  # noqa: E731

    def adapt(node):
        return LowRank(node, normal(2, node.weight.shape[1]), normal(node.weight.shape[0], 2))

    def merge(node):
        if not isinstance(node, LowRank):
            return node
        assert isinstance(node.linear, Linear)
        return eqx.tree_at(lambda layer: layer.weight, node.linear, node.linear.weight + node.up @ node.down)

    part = fill(lambda key: make(key=key))
    adapted = jax.tree.map(lambda node: adapt(node) if is_linear(node) else node, part, is_leaf=is_linear)
    merged = jax.tree.map(merge, adapted, is_leaf=lambda node: isinstance(node, LowRank))
    ours, expected = (eqx.filter_jit(use)(each) for each in (adapted, merged))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, expected)
    before = eqx.filter_jit(use)(part)
    assert not np.allclose(jax.tree.leaves(ours)[0], jax.tree.leaves(before)[0], atol=1e-2)


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
