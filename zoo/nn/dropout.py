"""Dropout of numbers, of whole tokens and of whole channels. `eqx.nn.inference_mode` turns it off."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Float32, Int, PRNGKeyArray, UInt32

from zoo.nn.checks import check_probability


class Dropout(eqx.Module):
    """Zeroes each number with probability `p`, and scales up the others: `eqx.nn.Dropout`, number for number.

    Only the price differs, which is that of random numbers. On a CPU JAX computes these in a loop over whole arrays;
    here the rounds of its generator are written out, so that XLA computes each number's where it is needed. Keys
    of other generators go JAX's way.

    References: Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", 2014.

    Example:
        >>> x, key = jnp.ones(6), jax.random.key(0)
        >>> Dropout(0.5)(x, key=key).tolist()
        [0.0, 0.0, 2.0, 2.0, 0.0, 2.0]
        >>> eqx.nn.Dropout(0.5)(x, key=key).tolist()
        [0.0, 0.0, 2.0, 2.0, 0.0, 2.0]
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
        kept = 1 - jax.lax.stop_gradient(self.p)  # of a plain number a plain number
        scaled = x / (kept.astype(x.dtype) if isinstance(kept, Array) else kept)
        # By `lt`, the primitive whose results a stack keeps for its backward pass (`zoo.nn.stack.KEPT`).
        return jnp.where(_uniform(key, x.shape) < kept, scaled, 0)


def _uniform(key: PRNGKeyArray, shape: tuple[int, ...]) -> Float32[Array, "..."]:
    """`jax.random.uniform(key, shape)`, as it is by default."""
    if str(jax.random.key_impl(key)) != "threefry2x32":
        return jax.random.uniform(key, shape)
    words = jax.random.key_data(key).reshape(-1)
    index = jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    first, second = _threefry(words[0], words[-1], jnp.zeros_like(index), index)
    return ((first ^ second) >> 9).astype(jnp.int32).astype(jnp.float32) * 2.0**-23


def _threefry(
    key_0: UInt32[Array, ""], key_1: UInt32[Array, ""], x_0: UInt32[Array, "*shape"], x_1: UInt32[Array, "*shape"]
) -> tuple[UInt32[Array, "*shape"], UInt32[Array, "*shape"]]:
    """Threefry-2x32 with 20 rounds, as in `jax.random`.

    References: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011, section 4.
    """
    keys = (key_0, key_1, key_0 ^ key_1 ^ jnp.uint32(0x1BD11BDA))
    x_0, x_1 = x_0 + keys[0], x_1 + keys[1]
    for group in range(5):
        for distance in ((13, 15, 26, 6), (17, 29, 16, 24))[group % 2]:
            x_0 = x_0 + x_1
            x_1 = x_0 ^ ((x_1 << distance) | (x_1 >> (32 - distance)))
        x_0, x_1 = x_0 + keys[(group + 1) % 3], x_1 + keys[(group + 2) % 3] + jnp.uint32(group + 1)
    return x_0, x_1


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
