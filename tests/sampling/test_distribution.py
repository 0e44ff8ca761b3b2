"""Sampled frequencies against the probabilities they should have: chi-square tests with a fixed key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoders import VOCAB, Script, elman

from zoo import Chain, MinP, Temperature, TopK, TopP, decode, generate

pytestmark = pytest.mark.usefixtures("strict_promotion")
DRAWS = 20_000
Z_OF_ONE_IN_A_THOUSAND = 3.0902


def assert_as_probable(counts, probabilities) -> None:
    """Pearson's statistic is below what chance exceeds once in a thousand (Wilson and Hilferty's approximation)."""
    counts, expected = counts.ravel(), probabilities.ravel() * counts.sum()
    assert counts[expected == 0].sum() == 0, "a token that must not come"
    rare = expected < 5
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    counts, expected = counts[expected > 0], expected[expected > 0]
    statistic, freedom = ((counts - expected) ** 2 / expected).sum(), len(counts) - 1
    assert freedom >= 2
    step = 2 / (9 * freedom)
    assert statistic < freedom * (1 - step + Z_OF_ONE_IN_A_THOUSAND * step**0.5) ** 3


def softmax(logits):
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


@pytest.fixture(scope="module")
def network(fill):
    return elman(fill)


def test_the_test_can_fail():
    fair = np.full(VOCAB, 1 / VOCAB)
    rng = np.random.default_rng(0)
    assert_as_probable(rng.multinomial(DRAWS, fair), fair)
    loaded = fair + np.where(np.arange(VOCAB) == 0, 0.01, -0.001)
    with pytest.raises(AssertionError):
        assert_as_probable(rng.multinomial(DRAWS, loaded), fair)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_pairs_of_tokens_are_as_probable_as_the_model_says(network, temperature):
    """Two tokens in a row of many samples of one prompt: draws of different rows and steps are independent."""
    prompt = [3, 1, 4]
    how = {"sampler": Temperature(temperature), "key": jax.random.key(0), "num_samples": DRAWS}
    tokens = generate(network.decoder, prompt, max_new_tokens=2, **how).tokens
    counts = np.zeros((VOCAB, VOCAB))
    np.add.at(counts, (tokens[:, 0], tokens[:, 1]), 1)
    logits = np.asarray(network.forward(jnp.array([*prompt, 0])), np.float64)[2]
    first = softmax(logits / temperature)
    seconds = [np.asarray(network.forward(jnp.array([*prompt, a])), np.float64)[3] for a in range(VOCAB)]
    assert_as_probable(counts, first[:, None] * np.stack([softmax(s / temperature) for s in seconds]))


def test_tokens_of_one_long_row_are_independent(network):
    """A script of one row of logits: every token is a new draw from the same distribution."""
    logits = np.linspace(0, 2, VOCAB)
    decoder = Script(rows=jnp.asarray(logits, jnp.float32)[None])
    run = jax.jit(
        lambda key: decode(decoder, np.array([1]), capacity=4097, max_new_tokens=4096, sampler=Temperature(), key=key)
    )
    tokens = np.asarray(run(jax.random.key(1)).tokens[:4096])
    pairs = np.zeros((VOCAB, VOCAB))
    np.add.at(pairs, (tokens[0::2], tokens[1::2]), 1)
    assert_as_probable(pairs, softmax(logits)[:, None] * softmax(logits)[None])


@pytest.mark.parametrize(
    ("sampler", "kept", "temperature"),
    [
        (MinP(0.3), 5, 1.0),
        (Chain(Temperature(2.0), TopK(4)), 4, 2.0),
        (Chain(TopK(6), TopP(0.7), Temperature(0.9)), 4, 0.9),
    ],
    ids=str,
)
def test_what_is_kept_keeps_its_proportions(sampler, kept, temperature):
    probabilities = np.array([0.3, 0.2, 0.12, 0.1, 0.095, 0.08, 0.05, 0.03, 0.015, 0.007, 0.003])
    decoder = Script(rows=jnp.asarray(np.log(probabilities), jnp.float32)[None])
    how = {"sampler": sampler, "key": jax.random.key(2), "num_samples": DRAWS}
    tokens = generate(decoder, [1], max_new_tokens=1, **how).tokens
    expected = np.where(np.arange(VOCAB) < kept, probabilities ** (1 / temperature), 0.0)
    assert_as_probable(np.bincount(tokens[:, 0], minlength=VOCAB), expected / expected.sum())
