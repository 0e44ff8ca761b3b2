"""Dropout of whole tokens and of whole channels. `eqx.nn.inference_mode` turns it off."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, PRNGKeyArray

from zoo.nn.checks import check_probability


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

    dropout: eqx.nn.Dropout

    def __init__(self, p: float):
        check_probability(channel_dropout_p=p)
        self.dropout = eqx.nn.Dropout(p)

    def __call__(self, x: Float[Array, "seq size"], *, key: PRNGKeyArray | None = None) -> Float[Array, "seq size"]:
        return x * self.dropout(jnp.ones(x.shape[1], x.dtype), key=key)[None]
