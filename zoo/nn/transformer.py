"""A Transformer's blocks: attention, perhaps also to a memory, and a feed-forward layer, all with residuals."""

from collections.abc import Callable
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from zoo.nn.attention import KVCache, MultiHeadAttention, attend
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
        x = _add(
            self,
            self.attention_norm,
            lambda y: self.attention(y, mask=mask, bias=bias, rotation=rotation, key=weights_key),
            x,
            attention_key,
        )
        return _add(self, self.mlp_norm, self.mlp, x, mlp_key)

    def extend(
        self,
        x: Float[Array, "seq embed"],
        cache: KVCache,
        slots: Int[Array, " seq"],
        *,
        mask: Bool[Array, "#seq capacity"],
        bias: Float[Array, "#heads #seq capacity"] | None = None,
        rotation: Rotation | None = None,
    ) -> tuple[Float[Array, "seq embed"], KVCache]:
        """New tokens behind those in a cache, as `MultiHeadAttention.extend`. Meant for inference mode."""

        def attention(y: Array) -> Array:
            nonlocal cache
            out, cache = self.attention.extend(y, cache, slots, mask=mask, bias=bias, rotation=rotation)
            return out

        x = _add(self, self.attention_norm, attention, x, None)
        return _add(self, self.mlp_norm, self.mlp, x, None), cache


class CrossAttentionBlock(eqx.Module):
    """A decoder's block over a memory: self-attention, attention to the memory, a feed-forward layer.

    Each with norm, residual and dropout as in `TransformerBlock`. The keys and values of a memory depend on
    nothing else, so `remember` computes them once and `extend` takes them for every new token.

    References: Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762, section 3.1.

    Example:
        >>> keys = jax.random.split(jax.random.key(0), 3)
        >>> attention, cross_attention = (MultiHeadAttention(8, 2, key=key) for key in keys[:2])
        >>> block = CrossAttentionBlock(attention, cross_attention, FeedForward(8, 32, key=keys[2]), embed_size=8)
        >>> block(jax.numpy.ones((5, 8)), memory=jax.numpy.ones((3, 8))).shape
        (5, 8)
    """

    attention_norm: eqx.nn.LayerNorm | eqx.nn.RMSNorm
    attention: MultiHeadAttention
    cross_attention_norm: eqx.nn.LayerNorm | eqx.nn.RMSNorm
    cross_attention: MultiHeadAttention
    mlp_norm: eqx.nn.LayerNorm | eqx.nn.RMSNorm
    mlp: FeedForward
    dropout: eqx.nn.Dropout
    pre_norm: bool = eqx.field(static=True)

    def __init__(
        self,
        attention: MultiHeadAttention,
        cross_attention: MultiHeadAttention,
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
            attention, cross_attention, mlp: the three parts.
            embed_size, pre_norm, norm, norm_epsilon, use_norm_bias, dropout_p: as in `TransformerBlock`.
        """
        check_probability("dropout_p", dropout_p)
        self.attention_norm, self.cross_attention_norm, self.mlp_norm = (
            make_norm(norm, embed_size, epsilon=norm_epsilon, use_bias=use_norm_bias) for _ in range(3)
        )
        self.attention, self.cross_attention, self.mlp = attention, cross_attention, mlp
        self.dropout = eqx.nn.Dropout(dropout_p)
        self.pre_norm = pre_norm

    def __call__(
        self,
        x: Float[Array, "seq embed"],
        *,
        memory: Float[Array, "memory embed"],
        mask: Bool[Array, "#seq seq"] | None = None,
        memory_mask: Bool[Array, "#seq memory"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "seq embed"]:
        """A whole sequence, each token of which may look into the memory.

        Args:
            x: the sequence.
            memory: an encoder's output.
            mask: True where a token may attend to one of `x`, in a decoder `causal_mask`.
            memory_mask: True where it may attend to one of `memory`: not to padding.
            key: for dropout, in training.
        """
        weights_key, attention_key, cross_weights_key, cross_key, mlp_key = (
            (None,) * 5 if key is None else jax.random.split(key, 5)
        )
        x = _add(self, self.attention_norm, lambda y: self.attention(y, mask=mask, key=weights_key), x, attention_key)
        x = _add(
            self,
            self.cross_attention_norm,
            lambda y: self.cross_attention(y, memory, mask=memory_mask, key=cross_weights_key),
            x,
            cross_key,
        )
        return _add(self, self.mlp_norm, self.mlp, x, mlp_key)

    def look(
        self,
        x: Float[Array, "seq embed"],
        *,
        memory: Float[Array, "memory embed"],
        mask: Bool[Array, "#seq seq"] | None = None,
        memory_mask: Bool[Array, "#seq memory"] | None = None,
    ) -> Float[Array, "heads seq memory"]:
        """How much each head of each token looks at each part of the memory, for pictures. As `__call__`."""
        x = _add(self, self.attention_norm, lambda y: self.attention(y, mask=mask), x, None)
        queries = self.cross_attention.project_queries(jax.vmap(self.cross_attention_norm)(x) if self.pre_norm else x)
        keys, _ = self.cross_attention.project_keys_values(memory)
        # The average of unit vectors, weighted by attention, is the weights.
        units = jnp.broadcast_to(jnp.eye(keys.shape[1], dtype=keys.dtype), (keys.shape[0], *[keys.shape[1]] * 2))
        return attend(queries, keys, units, scale=self.cross_attention.scale, mask=memory_mask)

    def remember(self, memory: Float[Array, "memory embed"]) -> KVCache:
        """The keys and values of a memory, for `extend`."""
        return KVCache(*self.cross_attention.project_keys_values(memory))

    def extend(
        self,
        x: Float[Array, "seq embed"],
        cache: KVCache,
        slots: Int[Array, " seq"],
        *,
        remembered: KVCache,
        mask: Bool[Array, "#seq capacity"],
        memory_mask: Bool[Array, "#seq memory"] | None = None,
    ) -> tuple[Float[Array, "seq embed"], KVCache]:
        """New tokens behind those in a cache. Meant for inference mode.

        Args:
            x, cache, slots, mask: as in `MultiHeadAttention.extend`.
            remembered: what `remember` made of the memory.
            memory_mask: as in `__call__`.
        """

        def attention(y: Array) -> Array:
            nonlocal cache
            out, cache = self.attention.extend(y, cache, slots, mask=mask)
            return out

        def cross_attention(y: Array) -> Array:
            part, (keys, values) = self.cross_attention, (remembered.keys, remembered.values)
            return part.merge(attend(part.project_queries(y), keys, values, scale=part.scale, mask=memory_mask))

        x = _add(self, self.attention_norm, attention, x, None)
        x = _add(self, self.cross_attention_norm, cross_attention, x, None)
        return _add(self, self.mlp_norm, self.mlp, x, None), cache


def _add(
    block: TransformerBlock | CrossAttentionBlock,
    norm: eqx.nn.LayerNorm | eqx.nn.RMSNorm,
    part: Callable[[Array], Array],
    x: Float[Array, "seq embed"],
    key: PRNGKeyArray | None,
) -> Float[Array, "seq embed"]:
    """`x` and what one part of a block makes of it, with the norm where the block has its norms."""
    if block.pre_norm:
        return x + block.dropout(part(jax.vmap(norm)(x)), key=key)
    return jax.vmap(norm)(x + block.dropout(part(x), key=key))
