"""Pooling over what is real, against slices."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.nn.pooling import masked_max, masked_mean


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
