"""Pooling of a sequence to one vector, by mean or maximum over its real tokens: padding never counts."""

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int


def masked_mean(x: Float[Array, "seq size"], length: Int[Array, ""] | int) -> Float[Array, " size"]:
    """The mean of the first `length` rows, of all if there are fewer, summed in float32; zeros if `length` is 0.

    Example:
        >>> masked_mean(jnp.array([[1.0], [2.0], [9.0]]), 2).tolist()
        [1.5]
    """
    real = (jnp.arange(x.shape[0]) < length)[:, None]
    total = jnp.sum(jnp.where(real, x, 0.0), axis=0, dtype=jnp.float32)
    count = jnp.clip(jnp.asarray(length, jnp.float32), 1.0, float(max(x.shape[0], 1)))
    return (total / count).astype(x.dtype)


def masked_max(x: Float[Array, "seq size"], length: Int[Array, ""] | int) -> Float[Array, " size"]:
    """The maximum of each column over the first `length` rows; zeros if `length` is 0.

    Example:
        >>> masked_max(jnp.array([[-3.0], [-2.0], [9.0]]), 2).tolist()
        [-2.0]
    """
    real = (jnp.arange(x.shape[0]) < length)[:, None]
    largest = _column_max(jnp.where(real, x, -jnp.inf))
    return jnp.where(length > 0, largest, 0.0).astype(x.dtype)


@jax.custom_jvp
def _column_max(x: Float[Array, "seq size"]) -> Float[Array, " size"]:
    """`jnp.max(x, axis=0)` with its gradient (equal largest entries share it), which that one can lose under `jit`.

    `jnp.max` finds the largest entries by equality with the maximum. XLA may compute them twice, in two fusions
    that round differently; then none is equal, and what stands before the pooling gets a wrong gradient. (On a CPU an
    optimization barrier does not prevent it: with jax 0.10.2 it is dropped before the fusions are made.)
    """
    return jnp.max(x, axis=0)


@_column_max.defjvp
def _column_max_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (tangent,) = primals, tangents
    size = x.shape[1]
    # A loop reads its operands from memory: the same entries for the maximum and for the comparison. XLA removes
    # a loop of one step, so this one has two, each for half of the columns.
    half = (size + 1) // 2
    padded = jnp.pad(x, ((0, 0), (0, 2 * half - size)))

    def compare(start: Array, _: None) -> tuple[Array, Array]:
        columns = lax.dynamic_slice_in_dim(padded, start, half, axis=1)
        return start + half, columns == jnp.max(columns, axis=0, keepdims=True)

    _, largest = lax.scan(compare, jnp.int32(0), length=2)
    weights = jnp.concatenate([largest[0], largest[1]], axis=1)[:, :size].astype(tangent.dtype)
    return _column_max(x), jnp.sum(tangent * weights, axis=0) / jnp.sum(weights, axis=0)
