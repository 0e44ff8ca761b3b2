"""Masks for attention: Bool, True where a query may attend to a key. Combine them with `&`."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Int


def causal_mask(length: int) -> Bool[Array, "{length} {length}"]:
    """Lets every position attend to itself and to all earlier ones.

    Example:
        >>> causal_mask(3).astype(int).tolist()
        [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    """
    return jnp.tril(jnp.ones((length, length), bool))


def padding_mask(length: Int[Array, ""] | int, size: int) -> Bool[Array, "1 {size}"]:
    """Lets every query attend to the first `length` of `size` keys: the rest is padding.

    Example:
        >>> padding_mask(2, 4).astype(int).tolist()
        [[1, 1, 0, 0]]
    """
    return (jnp.arange(size) < length)[None, :]


def cache_mask(
    positions: Int[Array, " query"], capacity: int, window: Int[Array, ""] | int | None = None
) -> Bool[Array, "query {capacity}"]:
    """Causal attention to a cache: a query at position p sees slots 0 to p, or the last `window` of these.

    Example:
        >>> cache_mask(jnp.array([1, 2]), 4).astype(int).tolist()
        [[1, 1, 0, 0], [1, 1, 1, 0]]
        >>> cache_mask(jnp.array([1, 2]), 4, window=2).astype(int).tolist()
        [[1, 1, 0, 0], [0, 1, 1, 0]]
    """
    slots, positions = jnp.arange(capacity)[None, :], positions[:, None]
    seen = slots <= positions
    return seen if window is None else seen & (slots > positions - window)
