"""Gemma's norm. The model is compared with transformers in `tests/pretrained`, and is in the contract."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from zoo.models.gemma import GemmaNorm


def test_a_norm_of_bfloat16_is_rounded_once(normal):
    x, weight = (normal(200).astype(jnp.bfloat16) for _ in range(2))
    norm = eqx.tree_at(lambda norm: norm.weight, GemmaNorm(200, 1e-6), 0.1 * weight)
    wide = np.asarray(x, np.float64)
    exact = wide / np.sqrt(np.mean(wide**2) + 1e-6) * (1 + np.asarray(norm.weight, np.float64))
    np.testing.assert_array_equal(norm(x), exact.astype(jnp.bfloat16))
