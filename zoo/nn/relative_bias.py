"""Relative positions as T5 has them: a trained number for each head and range of distances, added to the scores."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int, PRNGKeyArray

from zoo.nn.checks import check_buckets, check_flags, check_sizes


class RelativeBias(eqx.Module):
    """Maps positions of queries and of keys to what is added to the scores of attention.

    Half of the buckets stand for one distance each, the others for ranges that grow geometrically up to
    `max_distance`, beyond which all share the last. If bidirectional, one half of them serves keys before the query
    in this way, the other half keys after it.

    References: Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer",
    2019, arXiv:1910.10683, section 2.1.

    Example:
        >>> bias = RelativeBias(2, bidirectional=True, key=jax.random.key(0))
        >>> bias(jnp.arange(3), jnp.arange(5)).shape
        (2, 3, 5)
    """

    weight: Float[Array, "buckets heads"]
    max_distance: int = eqx.field(static=True)
    bidirectional: bool = eqx.field(static=True)

    def __init__(
        self,
        num_heads: int,
        num_buckets: int = 32,
        max_distance: int = 128,
        *,
        bidirectional: bool,
        std: float = 0.02,
        key: PRNGKeyArray,
    ):
        """
        Args:
            num_heads: of the attention.
            num_buckets: even, a multiple of 4 if bidirectional.
            max_distance: least distance of the last bucket, more than those that have buckets of their own.
            bidirectional: whether keys may lie after the query; else all such count as at its own place.
            std: standard deviation of the initial weights.
            key: for the weights.
        """
        check_sizes(num_heads=num_heads)
        check_flags(bidirectional=bidirectional)
        check_buckets(num_buckets, max_distance, bidirectional=bidirectional)
        self.weight = jax.random.normal(key, (num_buckets, num_heads)) * std
        self.max_distance = max_distance
        self.bidirectional = bidirectional

    def __call__(self, queries: Int[Array, " query"], keys: Int[Array, " key"]) -> Float[Array, "heads query key"]:
        """The bias of each head between a query at one position and a key at another."""
        one_sided = self.weight.shape[0] // (2 if self.bidirectional else 1)
        ahead = keys[None, :] - queries[:, None]
        distances = jnp.abs(ahead) if self.bidirectional else jnp.maximum(-ahead, 0)
        bucket = jnp.asarray(_buckets(one_sided, self.max_distance))[jnp.minimum(distances, self.max_distance)]
        if self.bidirectional:
            bucket = bucket + jnp.where(ahead > 0, one_sided, 0)
        return jnp.asarray(self.weight)[bucket].transpose(2, 0, 1)


def _buckets(num_buckets: int, max_distance: int) -> np.ndarray:
    """The bucket of each distance from 0 to `max_distance`. Computed once and on the host, in T5's order and type:
    where a range ends depends on how logarithms are rounded."""
    exact = num_buckets // 2
    distances = np.arange(max_distance + 1)
    wide = np.log(np.maximum(distances, 1).astype(np.float32) / np.float32(exact)) / np.float32(
        math.log(max_distance / exact)
    )
    geometric = exact + (wide * np.float32(num_buckets - exact)).astype(int)
    return np.where(distances < exact, distances, np.minimum(geometric, num_buckets - 1)).astype(np.int32)
