"""A model that has seen nothing guesses: its loss is ln(classes), whatever its size, tied or not."""

import math

import equinox as eqx
import jax
import numpy as np
import pytest
from cases import CASES

SEEDS = 2
FRESH = [pytest.param(case, sizes, id=f"{case.name}-{i}") for case in CASES for i, sizes in enumerate(case.fresh)]


@pytest.mark.parametrize(("case", "sizes"), FRESH)
def test_a_fresh_model_guesses(case, sizes):
    example = case.example(np.random.default_rng(0))

    @eqx.filter_jit
    def loss(key):
        """The mean over all targets, each as likely as the others."""
        logits = case.call(case.make(key, **sizes), *example)
        return -jax.nn.log_softmax(logits).mean() - math.log(logits.shape[-1])

    for seed in range(SEEDS):
        assert abs(float(loss(jax.random.key(seed, impl="unsafe_rbg")))) < 0.1  # the kind that compiles fastest
