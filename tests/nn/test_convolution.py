"""Convolution, against its definition and XLA's own."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.nn import Convolution, Linear


def by_hand(convolution, x):
    """Window i begins at i * stride - before; what it sees outside is zero. JAX says `before` of "SAME"."""
    k, s, w = convolution.kernel_size, convolution.stride, np.asarray(convolution.linear.weight)
    before = (k - 1) // 2
    if convolution.padding == "SAME":
        ((before, _),) = jax.lax.padtype_to_pads((len(x),), (k,), (s,), "SAME")
    out = []
    for i in range(-(-len(x) // s)):
        places = i * s - before + np.arange(k)
        seen = [x[p] if 0 <= p < len(x) else np.zeros(x.shape[1]) for p in places]
        out.append(w @ np.concatenate(seen) + np.asarray(convolution.linear.bias))
    return np.array(out)


@eqx.filter_jit
def call(convolution, x, length):
    return convolution(x, length)


@settings(deadline=None, max_examples=25)  # it compiles for each shape
@given(st.integers(1, 7), st.integers(1, 4), st.integers(1, 9), st.integers(0, 4), st.sampled_from(["fixed", "SAME"]))
def test_definition_and_padding(fill, kernel_size, stride, seq, missing, padding):
    rng = np.random.default_rng(seq)
    convolution = fill(
        lambda key: Convolution(2, 3, kernel_size=kernel_size, stride=stride, padding=padding, key=key)
    )
    x = rng.normal(size=(seq, 2)).astype(np.float32)
    padded = np.concatenate([x, rng.choice([np.nan, 7.0], (missing, 2)).astype(np.float32)])
    out, length = call(convolution, jnp.asarray(padded, jnp.float32), jnp.asarray(seq, jnp.int32))
    assert int(length) == -(-seq // stride)
    np.testing.assert_allclose(out[: int(length)], by_hand(convolution, x), atol=1e-5)
    assert out.shape[0] == -(-len(padded) // stride)


@pytest.mark.parametrize("padding", ["fixed", "SAME"])
@pytest.mark.parametrize(("kernel_size", "stride"), [(7, 3), (3, 1), (4, 2)])
def test_agrees_with_xla_under_vmap_and_in_gradients(kernel_size, stride, padding, normal, fill):
    convolution = fill(
        lambda key: Convolution(4, 5, kernel_size=kernel_size, stride=stride, padding=padding, key=key)
    )
    x = normal(2, 11, 4)

    def theirs(weight, x):
        before, windows = (kernel_size - 1) // 2, -(-11 // stride)
        after = (windows - 1) * stride + kernel_size - before - 11
        kernel = weight.reshape(5, kernel_size, 4).transpose(1, 2, 0)
        numbers = ("NWC", "WIO", "NWC")
        edges = "SAME" if padding == "SAME" else [(before, after)]
        out = jax.lax.conv_general_dilated(x, kernel, (stride,), edges, dimension_numbers=numbers)
        return out + np.asarray(convolution.linear.bias)[None, None, :]

    def ours(weight, x):
        changed = eqx.tree_at(lambda c: c.linear.weight, convolution, weight)
        return jax.vmap(lambda x: changed(x, 11)[0])(x)

    assert isinstance(convolution.linear, Linear)
    weight = convolution.linear.weight

    def out_and_gradients(f):
        def loss(weight, x):
            out = f(weight, x)
            return jnp.sum(jnp.sin(out)), out

        (_, out), gradients = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(weight, x)
        return out, *gradients

    for one, other in zip(out_and_gradients(ours), out_and_gradients(theirs), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_wrong_sizes_are_named():
    wrongs: Any = ({"kernel_size": 0}, {"stride": 0, "kernel_size": 2})
    for wrong in wrongs:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Convolution(2, 2, **wrong, key=jax.random.key(0))
