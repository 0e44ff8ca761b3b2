"""The bias of distances against its definition, one query and one key at a time."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo.nn import RelativeBias

pytestmark = pytest.mark.usefixtures("strict_promotion")


def bucket_by_hand(ahead, num_buckets, max_distance, *, bidirectional):
    """Of a key so many tokens ahead of the query. None where rounding decides."""
    first = 0
    if bidirectional:
        num_buckets //= 2
        first = num_buckets if ahead > 0 else 0
    distance = abs(ahead) if bidirectional else max(-ahead, 0)
    exact = num_buckets // 2
    if distance < exact:
        return first + distance
    position = math.log(distance / exact) / math.log(max_distance / exact) * (num_buckets - exact)
    if abs(position - round(position)) < 1e-5:
        return None
    return first + min(exact + int(position), num_buckets - 1)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (8, 12)])
def test_each_distance_has_the_number_of_its_bucket(bidirectional, num_buckets, max_distance):
    bias = RelativeBias(2, num_buckets, max_distance, bidirectional=bidirectional, key=jax.random.key(0))
    queries, keys = np.arange(0, 300, 23), np.arange(290)
    found, weight = np.asarray(bias(jnp.asarray(queries), jnp.asarray(keys))), np.asarray(bias.weight)
    assert found.shape == (2, len(queries), len(keys))
    by_hand = {
        ahead: bucket_by_hand(ahead, num_buckets, max_distance, bidirectional=bidirectional)
        for ahead in range(-300, 300)
    }
    pairs = [(i, key) for i in range(len(queries)) for key in keys if by_hand[int(key - queries[i])] is not None]
    assert len(pairs) > 0.9 * len(queries) * len(keys)
    rows, columns = np.array(pairs).T
    buckets = np.array([by_hand[int(key - queries[i])] for i, key in pairs])
    np.testing.assert_array_equal(found[:, rows, columns], weight[buckets].T)


def test_where_ranges_end_as_those_of_t5_do():
    """The first distance of each bucket in T5's own numbers, where rounding decides at 16 and 64."""
    bias = RelativeBias(1, bidirectional=True, key=jax.random.key(0))
    row = np.asarray(bias(jnp.array([0]), jnp.arange(130)))[0, 0]
    first = [0, *(np.flatnonzero(row[1:] != row[:-1]) + 1).tolist()]
    assert first == [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91]


def test_numbers_that_cannot_be():
    for options, named in (
        ({"num_buckets": 6}, "num_buckets must be a multiple of 4, got 6"),
        ({"num_buckets": 8, "max_distance": 2}, "max_distance must be more than 2"),
        ({"num_buckets": 0}, "num_buckets must be"),
    ):
        with pytest.raises(ValueError, match=named):
            RelativeBias(2, **options, bidirectional=True, key=jax.random.key(0))
