"""Dropout of numbers, of whole tokens and of whole channels. `eqx.nn.inference_mode` turns it off."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, PRNGKeyArray, UInt16

from zoo.nn.checks import check_probability

HALVES = 2**16  # values of half a random word


class Dropout(eqx.Module):
    """Zeroes each number with probability `p`, and scales up the others, as `eqx.nn.Dropout`.

    It differs in the price, which is that of random numbers: here each word of 32 bits decides about two numbers. So
    `p` is rounded to a multiple of 2**-16, and the scale is that of the rounded one.

    References: Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", 2014.

    Example:
        >>> Dropout(0.5)(jnp.ones(6), key=jax.random.key(0)).tolist()
        [0.0, 2.0, 0.0, 2.0, 0.0, 0.0]
    """

    # Not static, so that `eqx.tree_at` can change it.
    p: Any = 0.5
    inference: bool = False

    def __check_init__(self):
        if isinstance(self.p, float | int):
            check_probability(dropout_p=self.p)

    def __call__(self, x: Float[Array, "*shape"], *, key: PRNGKeyArray | None = None) -> Float[Array, "*shape"]:
        if self.inference or (isinstance(self.p, float | int) and self.p == 0):
            return x
        if key is None:
            raise RuntimeError("dropout needs a key outside inference mode")  # as `eqx.nn.Dropout` does
        dropped = jnp.round(jnp.asarray(self.p, jnp.float32) * HALVES).astype(jnp.int32)
        # By `lt`, the primitive whose results a stack keeps for its backward pass (`zoo.nn.stack.KEPT`).
        drop = _random_halves(key, x.size).astype(jnp.int32).reshape(x.shape) < dropped
        return jnp.where(drop, 0, x / (1 - dropped / HALVES).astype(x.dtype))


def _random_halves(key: PRNGKeyArray, count: int) -> UInt16[Array, " {count}"]:
    words = jax.random.bits(key, (-(-count // 2),), jnp.uint32)
    return jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)[:count]


class TokenDropout(eqx.Module):
    """Replaces each token by `replacement` with probability `p`, so that no model relies on single words.

    References: Iyyer et al., "Deep Unordered Composition Rivals Syntactic Methods", 2015, word dropout.

    Example:
        >>> dropout = TokenDropout(0.5, replacement=2)
        >>> dropout(jnp.array([7, 8, 9]), key=jax.random.key(2)).tolist()
        [7, 8, 2]
    """

    p: float = eqx.field(static=True)
    replacement: int = eqx.field(static=True)
    inference: bool = False

    def __check_init__(self):
        check_probability(token_dropout_p=self.p)

    def __call__(self, tokens: Int[Array, " seq"], *, key: PRNGKeyArray | None = None) -> Int[Array, " seq"]:
        if self.inference or self.p == 0:
            return tokens
        if key is None:
            raise RuntimeError("dropout of tokens needs a key outside inference mode")  # as `eqx.nn.Dropout` does
        return jnp.where(jax.random.bernoulli(key, self.p, tokens.shape), self.replacement, tokens)


class ChannelDropout(eqx.Module):
    """Zeroes each channel of a whole sequence with probability `p`, and scales up the others.

    References: Tompson et al., "Efficient Object Localization Using Convolutional Networks", 2015,
    arXiv:1411.4280, there for the channels of images.
    """

    dropout: Dropout

    def __init__(self, p: float):
        check_probability(channel_dropout_p=p)
        self.dropout = Dropout(p)

    def __call__(self, x: Float[Array, "seq size"], *, key: PRNGKeyArray | None = None) -> Float[Array, "seq size"]:
        return x * self.dropout(jnp.ones(x.shape[1], x.dtype), key=key)[None]
