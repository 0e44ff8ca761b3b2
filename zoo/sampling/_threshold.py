"""The cut of a distribution without sorting it: a threshold found bit by bit in the order of float32."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float32, UInt32

from zoo.varying import vary_together


def keep_from_threshold(
    logits: Float32[Array, " vocab"], weights: Float32[Array, " vocab"], enough: Float32[Array, ""]
) -> Float32[Array, " vocab"]:
    """Keeps the logits above the highest threshold whose weights add up to `enough`; always the best.

    The threshold is built bit by bit from the top: the sum suffices below some value and not above it.
    """
    # Rows of 128, filled up with what no threshold keeps: sums of columns use the whole width of a CPU's registers.
    fill = -logits.size % 128
    ordered, weights = (jnp.pad(x, (0, fill)).reshape(-1, 128) for x in (_in_order(logits), weights))
    best = jnp.max(ordered)

    def set_bit(threshold: UInt32[Array, ""], bit: UInt32[Array, ""]) -> tuple[UInt32[Array, ""], None]:
        candidate = threshold | bit
        total = jnp.sum(jnp.sum(jnp.where(ordered >= candidate, weights, 0.0), axis=0))
        return jnp.where((candidate <= best) & (total >= enough), candidate, threshold), None

    bits = jnp.left_shift(jnp.uint32(1), jnp.arange(32, dtype=jnp.uint32)[::-1])
    zero, *_ = vary_together(jnp.zeros((), jnp.uint32), logits, weights, enough)
    threshold, _ = jax.lax.scan(set_bit, zero, bits)
    return jnp.where(_in_order(logits) >= threshold, logits, -jnp.inf)


def _in_order(x: Float32[Array, " vocab"]) -> UInt32[Array, " vocab"]:
    """Whole numbers in the same order as the floats: the sign bit is turned, negative numbers are reversed."""
    x = jnp.where(x == 0.0, 0.0, x)  # 0.0 for -0.0: equal numbers, equal bits (XLA drops `x + 0.0`)
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    return jnp.where(bits >> 31 == 0, bits | jnp.uint32(1 << 31), ~bits)
