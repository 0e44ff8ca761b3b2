"""What every test runs under: no silent rank promotion, full float32 products, plots without a screen."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")


@pytest.fixture
def getkey():
    """A function that gives a new random key at each call, the same ones in each run."""
    keys = iter(jax.random.split(jax.random.key(0), 1000))
    return lambda: next(keys)
