"""Masks against what they say in words: True where a query may attend."""

import jax.numpy as jnp
import numpy as np
import pytest

from zoo.nn import cache_mask, causal_mask, padding_mask


@pytest.mark.parametrize("length", [1, 2, 5])
def test_causal(length):
    assert causal_mask(length).tolist() == [[key <= query for key in range(length)] for query in range(length)]


@pytest.mark.parametrize("length", [0, 2, 4])
def test_padding(length):
    assert padding_mask(length, 4).tolist() == [[key < length for key in range(4)]]
    assert padding_mask(jnp.array(length), 4).dtype == jnp.bool_


def test_cache():
    positions = [3, 0, 5, 9]
    mask = cache_mask(jnp.array(positions), 6)
    assert mask.tolist() == [[slot <= position for slot in range(6)] for position in positions]


def test_they_combine_by_and():
    both = causal_mask(4) & padding_mask(2, 4)
    np.testing.assert_array_equal(both[3], [True, True, False, False])
    np.testing.assert_array_equal(both[0], [True, False, False, False])
