"""A tiny model with everything that `training` must cope with: dropout, a frozen table, integers, a function."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from jaxtyping import Float, Int, PRNGKeyArray

VOCAB = 11
LENGTH = 5


class Tiny(eqx.Module):
    table: Float[Array, "vocab embed"]
    mlp: eqx.nn.MLP
    dropout: eqx.nn.Dropout
    shift: Int[Array, ""]  # an array that can't be trained

    def __init__(self, *, key: PRNGKeyArray, dropout_p: float = 0.0):
        table, mlp = jax.random.split(key)
        self.table = jax.random.normal(table, (VOCAB, 6))
        self.mlp = eqx.nn.MLP(6, VOCAB, 7, 1, key=mlp)
        self.dropout = eqx.nn.Dropout(dropout_p)
        self.shift = jnp.asarray(np.int32(3))

    def __call__(self, tokens: Int[Array, " seq"], *, key: PRNGKeyArray | None = None) -> Float[Array, "seq vocab"]:
        return jax.vmap(self.mlp)(self.dropout(self.table[tokens], key=key))


@pytest.fixture
def tiny():
    """The class, so that tests can make as many as they need."""
    return Tiny


@pytest.fixture
def make_batches():
    """A function that makes n batches to learn `target = input + 1` from, some targets without weight."""

    def make(n: int, *, seed: int = 0, rows: int = 4):
        draws = np.random.default_rng(seed)
        batches = []
        for _ in range(n):
            inputs = draws.integers(0, VOCAB, (rows, LENGTH), np.int32)
            weights = draws.integers(0, 2, (rows, LENGTH)).astype(np.float32)
            weights[:, 0] = 1
            batches.append({"inputs": inputs, "targets": (inputs + 1) % VOCAB, "weights": weights})
        return batches

    return make
