"""A Transformer's block: attention, then a feed-forward layer, each added to what went in."""

from collections.abc import Callable
from typing import Literal

import equinox as eqx
import jax
from jax import Array
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from zoo.nn.attention import KVCache, MultiHeadAttention
from zoo.nn.checks import check_choice, check_positive, check_probability
from zoo.nn.embedding import Rotation
from zoo.nn.feed_forward import FeedForward

NORMS = ("layer", "rms")


def make_norm(
    norm: Literal["layer", "rms"], size: int, *, epsilon: float, use_bias: bool = True
) -> eqx.nn.LayerNorm | eqx.nn.RMSNorm:
    """LayerNorm or RMSNorm (which has no bias) over vectors of `size`; both compute in float32."""
    check_choice("norm", norm, NORMS)
    check_positive(norm_epsilon=epsilon)
    if norm == "layer":
        return eqx.nn.LayerNorm(size, eps=epsilon, use_bias=use_bias)
    return eqx.nn.RMSNorm(size, eps=epsilon, use_bias=False)


class TransformerBlock(eqx.Module):
    """Maps a sequence to a sequence: self-attention and a feed-forward layer, each with norm and residual.

    The mask alone makes it an encoder's or a decoder's block. Pre-norm computes `x + f(norm(x))` (GPT-2, Llama,
    Trax), post-norm `norm(x + f(x))` (the original Transformer, BERT). Dropout acts on the attention weights
    and on what both parts add.

    Example:
        >>> attention_key, mlp_key = jax.random.split(jax.random.key(0))
        >>> block = TransformerBlock(
        ...     MultiHeadAttention(8, 2, key=attention_key), FeedForward(8, 32, key=mlp_key), embed_size=8
        ... )
        >>> block(jax.numpy.ones((5, 8))).shape
        (5, 8)
    """

    attention_norm: eqx.nn.LayerNorm | eqx.nn.RMSNorm
    attention: MultiHeadAttention
    mlp_norm: eqx.nn.LayerNorm | eqx.nn.RMSNorm
    mlp: FeedForward
    dropout: eqx.nn.Dropout
    pre_norm: bool = eqx.field(static=True)

    def __init__(
        self,
        attention: MultiHeadAttention,
        mlp: FeedForward,
        *,
        embed_size: int,
        pre_norm: bool = True,
        norm: Literal["layer", "rms"] = "layer",
        norm_epsilon: float = 1e-6,
        use_norm_bias: bool = True,
        dropout_p: float = 0.0,
    ):
        """
        Args:
            attention, mlp: the two parts.
            embed_size: length of a token's vector.
            pre_norm: whether the norms stand before the parts or behind the sums.
            norm: "layer" or "rms", with its epsilon and, for "layer", a bias or none.
            dropout_p: probability of zeroing an entry of what a part adds, in [0, 1).
        """
        check_probability("dropout_p", dropout_p)
        self.attention_norm, self.mlp_norm = (
            make_norm(norm, embed_size, epsilon=norm_epsilon, use_bias=use_norm_bias) for _ in range(2)
        )
        self.attention, self.mlp = attention, mlp
        self.dropout = eqx.nn.Dropout(dropout_p)
        self.pre_norm = pre_norm

    def __call__(
        self,
        x: Float[Array, "seq embed"],
        *,
        mask: Bool[Array, "#seq seq"] | None = None,
        bias: Float[Array, "#heads #seq seq"] | None = None,
        rotation: Rotation | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "seq embed"]:
        """A whole sequence. `mask` is True where a token may attend; `key` is needed for dropout."""
        weights_key, attention_key, mlp_key = (None,) * 3 if key is None else jax.random.split(key, 3)
        x = self._add(
            self.attention_norm,
            lambda y: self.attention(y, mask=mask, bias=bias, rotation=rotation, key=weights_key),
            x,
            attention_key,
        )
        return self._add(self.mlp_norm, self.mlp, x, mlp_key)

    def extend(
        self,
        x: Float[Array, "seq embed"],
        cache: KVCache,
        slots: Int[Array, " seq"],
        *,
        mask: Bool[Array, "#seq room"],
        bias: Float[Array, "#heads #seq room"] | None = None,
        rotation: Rotation | None = None,
    ) -> tuple[Float[Array, "seq embed"], KVCache]:
        """New tokens behind those in a cache, as `MultiHeadAttention.extend`. Meant for inference mode."""

        def attention(y: Array) -> Array:
            nonlocal cache
            out, cache = self.attention.extend(y, cache, slots, mask=mask, bias=bias, rotation=rotation)
            return out

        x = self._add(self.attention_norm, attention, x, None)
        return self._add(self.mlp_norm, self.mlp, x, None), cache

    def _add(
        self,
        norm: eqx.nn.LayerNorm | eqx.nn.RMSNorm,
        part: Callable[[Array], Array],
        x: Float[Array, "seq embed"],
        key: PRNGKeyArray | None,
    ) -> Float[Array, "seq embed"]:
        if self.pre_norm:
            return x + self.dropout(part(jax.vmap(norm)(x)), key=key)
        return jax.vmap(norm)(x + self.dropout(part(x), key=key))
