"""A model that has seen nothing guesses: its loss is ln(classes), whatever its size, tied or not."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES

SEEDS = 2
FRESH = [
    pytest.param(case, case.arguments | sizes, id="-".join([case.name, *(str(n) for n in sizes.values())]))
    for case in CASES
    for sizes in case.fresh
]


@pytest.mark.parametrize(("case", "arguments"), FRESH)
def test_a_fresh_model_guesses(case, arguments):
    example = case.example(np.random.default_rng(0))

    @eqx.filter_jit
    def loss(key):
        """The mean over all targets, each as likely as the others."""
        return -jax.nn.log_softmax(case.model(**arguments, key=key)(*example)).mean()

    for seed in range(SEEDS):
        key = jax.random.key(seed, impl="unsafe_rbg")  # the kind that compiles fastest
        log_classes = math.log(arguments["vocab_size"])
        assert abs(float(loss(key)) - log_classes) < 0.1
        assert jnp.isfinite(loss(key))
