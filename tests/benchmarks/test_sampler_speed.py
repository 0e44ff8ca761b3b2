"""Samplers at GPT-2's vocabulary, against the same ones by a full sort."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo import MinP, TopK, TopP

VOCAB = 50_257


def sorted_top_k(logits, k):
    return logits >= jnp.sort(logits)[::-1][k - 1]


def sorted_top_p(logits, p):
    """Up to the token with which the probabilities of the best first add up to p."""
    best_first = jnp.sort(logits)[::-1]
    last = jnp.sum(jnp.cumsum(jax.nn.softmax(best_first)) < p)
    return logits >= best_first[last]


def sorted_min_p(logits, p):
    best_first = jnp.sort(logits)[::-1]
    kept = jnp.sum(jax.nn.softmax(best_first) >= p * jax.nn.softmax(best_first)[0])
    return logits >= best_first[kept - 1]


@pytest.mark.benchmark(group="samplers")
@pytest.mark.parametrize(
    ("sampler", "number", "by_sorting"),
    [(TopK, 50, sorted_top_k), (TopP, 0.9, sorted_top_p), (MinP, 0.05, sorted_min_p)],
)
def test_sampler_against_a_full_sort(compare, sampler, number, by_sorting):
    """One row, compiled; the number is traced, as `generate` passes it."""
    logits = jnp.asarray(np.random.default_rng(0).normal(size=VOCAB) * 3, jnp.float32)
    context = jnp.full(64, -1)
    number = jnp.asarray(number)
    fast = jax.jit(lambda logits, number: sampler(number)(logits, context))
    slow = jax.jit(lambda logits, number: jnp.where(by_sorting(logits, number), logits, -jnp.inf))
    kept = np.isfinite(fast(logits, number))
    np.testing.assert_array_equal(kept, np.isfinite(slow(logits, number)))
    assert 1 < kept.sum() < VOCAB / 2
    compare(
        f"{sampler.__name__} of {VOCAB:,} logits, against a sort",
        lambda: fast(logits, number).block_until_ready(),
        lambda: slow(logits, number).block_until_ready(),
        rounds=200,
    )
