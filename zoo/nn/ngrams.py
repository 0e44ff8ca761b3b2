"""Hashed embeddings of n-grams: word order at the price of an embedding lookup."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, Int32, PRNGKeyArray, UInt32

from zoo.nn.checks import check_jax_array, check_positive, check_sizes


class NGramEmbedding(eqx.Module):
    """Maps a sequence of tokens to the sum of its n-grams' vectors, found by hash, over the root of their number.

    N-grams that share a bucket share a vector; with many more buckets than frequent n-grams that hardly matters.
    Dividing by the root keeps the variance of the result whatever the length of the text; a mean would shrink it.

    References: Joulin et al., "Bag of Tricks for Efficient Text Classification", 2017, arXiv:1607.01759.

    Example:
        >>> ngrams = NGramEmbedding(100, 4, (2, 3), key=jax.random.key(0))
        >>> ngrams(jnp.array([5, 3, 8, 1]), 3).shape
        (4,)
    """

    weight: Float[Array, "buckets size"]
    orders: tuple[int, ...] = eqx.field(static=True)
    scale: float = eqx.field(static=True)

    def __init__(
        self,
        num_buckets: int,
        size: int,
        orders: tuple[int, ...],
        *,
        std: float = 0.1,
        scale: float = 5.0,
        key: PRNGKeyArray,
    ):
        """
        Args:
            num_buckets: rows of the table.
            size: size of each vector.
            orders: the n of the n-grams, each at least 1.
            std: standard deviation of the initial vectors, scale included.
            scale: factor on the table. A row is seen so rarely that under Adam it would lag behind other weights;
                this way it learns `scale` times as fast.
            key: for the initial vectors.
        """
        check_sizes(num_buckets=num_buckets, size=size, **{f"orders[{i}]": n for i, n in enumerate(orders)})
        check_positive(std=std, scale=scale)
        self.weight = jax.random.normal(key, (num_buckets, size)) * (std / scale)
        self.orders, self.scale = tuple(orders), scale

    def buckets(self, tokens: Int[Array, " seq"], order: int) -> Int32[Array, " grams"]:
        """The row of each n-gram of one order, by a multiplicative hash of its tokens."""
        grams = tokens.shape[0] - order + 1
        mixed: UInt32[Array, " grams"] = jnp.full((grams,), 0x9E3779B9 ^ order, jnp.uint32)
        for i in range(order):
            mixed = (mixed ^ tokens[i : i + grams].astype(jnp.uint32)) * jnp.uint32(0x85EBCA6B)
            mixed = mixed ^ (mixed >> 15)
        return (mixed % jnp.uint32(self.weight.shape[0])).astype(jnp.int32)

    def __call__(self, tokens: Int[Array, " seq"], length: Int[Array, ""] | int) -> Float[Array, " size"]:
        """The sum over n-grams of all orders among the first `length` tokens; zeros if there are none."""
        check_jax_array("the table of n-grams", self.weight)
        rows, counts = [], []
        for order in self.orders:
            if tokens.shape[0] >= order:
                rows.append(self.buckets(tokens, order))
                counts.append(jnp.arange(rows[-1].shape[0]) < length - order + 1)
        if not rows:
            return jnp.zeros(self.weight.shape[1], self.weight.dtype)
        real = jnp.concatenate(counts)
        vectors = jnp.where(real[:, None], self.weight[jnp.concatenate(rows)], 0.0)
        total = jnp.sum(vectors, axis=0, dtype=jnp.float32)
        count = jnp.sum(real, dtype=jnp.float32)
        return (total * (self.scale / jnp.sqrt(jnp.maximum(count, 1.0)))).astype(self.weight.dtype)
