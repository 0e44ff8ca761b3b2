"""Pooling of a sequence to one vector, by mean or maximum over its real tokens: padding never counts."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int


def masked_mean(x: Float[Array, "seq size"], length: Int[Array, ""] | int) -> Float[Array, " size"]:
    """The mean of the first `length` rows, summed in float32; zeros if `length` is 0.

    Example:
        >>> masked_mean(jnp.array([[1.0], [2.0], [9.0]]), 2).tolist()
        [1.5]
    """
    real = (jnp.arange(x.shape[0]) < length)[:, None]
    total = jnp.sum(jnp.where(real, x, 0.0), axis=0, dtype=jnp.float32)
    return (total / jnp.maximum(jnp.asarray(length, jnp.float32), 1.0)).astype(x.dtype)


def masked_max(x: Float[Array, "seq size"], length: Int[Array, ""] | int) -> Float[Array, " size"]:
    """The maximum of each column over the first `length` rows; zeros if `length` is 0.

    Example:
        >>> masked_max(jnp.array([[-3.0], [-2.0], [9.0]]), 2).tolist()
        [-2.0]
    """
    real = (jnp.arange(x.shape[0]) < length)[:, None]
    # The gradient finds the largest entry by equality with the maximum. Without the barrier XLA may compute the
    # entries twice, in two fusions that round differently, and then finds none (seen with jax 0.12 on a CPU).
    largest = jnp.max(jax.lax.optimization_barrier(jnp.where(real, x, -jnp.inf)), axis=0)
    return jnp.where(length > 0, largest, 0.0).astype(x.dtype)
