"""n-grams by hash, against a loop with Python's integers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.nn import NGramEmbedding


@pytest.fixture(scope="module")
def embed(fill):
    """An embedding's table, and what it gives, compiled for each length."""
    ngrams = fill(lambda key: NGramEmbedding(50, 3, (1, 2, 3), key=key))
    return np.asarray(ngrams.weight), jax.jit(lambda tokens, length: ngrams(tokens, length))


def bucket(tokens):
    mixed = 0x9E3779B9 ^ len(tokens)
    for token in tokens:
        mixed = ((mixed ^ token) * 0x85EBCA6B) % 2**32
        mixed ^= mixed >> 15
    return mixed % 50


@settings(deadline=None, max_examples=20)  # it compiles for each shape
@given(st.lists(st.integers(0, 99), min_size=1, max_size=7), st.integers(0, 3))
def test_the_vectors_of_all_grams(embed, tokens, padding):
    weight, call = embed
    grams = [tuple(tokens[i : i + n]) for n in (1, 2, 3) for i in range(len(tokens) - n + 1)]
    expected = 5.0 * sum(weight[bucket(gram)] for gram in grams) / np.sqrt(len(grams))
    padded = np.array(tokens + [5] * padding, np.int32)
    np.testing.assert_allclose(call(padded, np.int32(len(tokens))), expected, atol=1e-5)


def test_a_text_shorter_than_every_gram_has_none():
    ngrams = NGramEmbedding(50, 3, (2,), key=jax.random.key(0))
    np.testing.assert_array_equal(ngrams(jnp.array([1]), 1), np.zeros(3))
    np.testing.assert_array_equal(ngrams(jnp.array([1, 2]), 1), np.zeros(3))


def test_grams_spread_over_the_buckets():
    ngrams = NGramEmbedding(4096, 1, (2,), key=jax.random.key(0))
    pairs = np.stack(np.meshgrid(np.arange(64), np.arange(64)), axis=-1).reshape(-1, 2)
    rows = np.asarray(jax.vmap(lambda pair: ngrams.buckets(pair, 2)[0])(jnp.asarray(pairs, jnp.int32)))
    # 4,096 balls in 4,096 boxes leave 1 / e of them empty if they fall at random.
    assert abs(len(np.unique(rows)) / 4096 - (1 - np.exp(-1))) < 0.03
