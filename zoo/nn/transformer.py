"""A Transformer's blocks: attention, perhaps also to a memory, and a feed-forward layer, all with residuals."""

from typing import ClassVar, Literal

import equinox as eqx
import jax
from jax import Array
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from zoo.nn.attention import MultiHeadAttention
from zoo.nn.checks import check_probability
from zoo.nn.dropout import Dropout
from zoo.nn.embedding import Rotation
from zoo.nn.feed_forward import FeedForward
from zoo.nn.kv_cache import KVCache
from zoo.nn.norm import make_norm
from zoo.nn.scaled_dot_product import attend


class TransformerBlock(eqx.Module):
    """Maps a sequence to a sequence: self-attention and a feed-forward layer, each with norm and residual.

    The mask alone makes it an encoder's or a decoder's block. Pre-norm computes `x + f(norm(x))` (GPT-2, Llama,
    Trax), post-norm `norm(x + f(x))` (the original Transformer, BERT). Dropout acts on the attention weights
    and on both residual branches.

    Example:
        >>> attention_key, mlp_key = jax.random.split(jax.random.key(0))
        >>> block = TransformerBlock(
        ...     MultiHeadAttention(8, 2, key=attention_key), FeedForward(8, 32, key=mlp_key), embed_size=8
        ... )
        >>> block(jax.numpy.ones((5, 8))).shape
        (5, 8)
    """

    num_attentions: ClassVar[int] = 1

    attention_norm: eqx.nn.LayerNorm | eqx.nn.RMSNorm | eqx.nn.Identity
    attention: MultiHeadAttention
    mlp_norm: eqx.nn.LayerNorm | eqx.nn.RMSNorm
    mlp: FeedForward
    dropout: Dropout
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
            pre_norm: whether the norms stand before the parts or after the sums.
            norm: "layer" or "rms", with its epsilon and, for "layer", a bias or none.
            dropout_p: dropout probability of the residual branches, in [0, 1).
        """
        check_probability(dropout_p=dropout_p)
        self.attention_norm, self.mlp_norm = (
            make_norm(norm, embed_size, epsilon=norm_epsilon, use_bias=use_norm_bias) for _ in range(2)
        )
        self.attention, self.mlp = attention, mlp
        self.dropout = Dropout(dropout_p)
        self.pre_norm = pre_norm

    def __call__(
        self,
        x: Float[Array, "seq embed"],
        *,
        mask: Bool[Array, "#seq seq"] | None = None,
        bias: Float[Array, "#heads #seq seq"] | None = None,
        causal: bool = False,
        rotation: Rotation | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "seq embed"]:
        """A whole sequence. `mask`: True where a token may attend; `causal`: to none later; `key`: for dropout."""
        weights_key, attention_key, mlp_key = (None,) * 3 if key is None else jax.random.split(key, 3)
        y = _branch_input(self, self.attention_norm, x)
        y = self.attention(y, mask=mask, bias=bias, causal=causal, rotation=rotation, key=weights_key)
        x = _add_branch(self, self.attention_norm, x, y, attention_key)
        y = self.mlp(_branch_input(self, self.mlp_norm, x))
        return _add_branch(self, self.mlp_norm, x, y, mlp_key)

    def attention_weights(
        self,
        x: Float[Array, "seq embed"],
        *,
        mask: Bool[Array, "#seq seq"] | None = None,
        bias: Float[Array, "#heads #seq seq"] | None = None,
        causal: bool = False,
        rotation: Rotation | None = None,
    ) -> Float[Array, "heads seq seq"]:
        """How much each token attends to each one, by head. Arguments as in `__call__`."""
        y = _branch_input(self, self.attention_norm, x)
        return self.attention.weights(y, mask=mask, bias=bias, causal=causal, rotation=rotation)

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
        """New tokens after those in a cache, as `MultiHeadAttention.extend`. Meant for inference mode."""
        y = _branch_input(self, self.attention_norm, x)
        y, cache = self.attention.extend(y, cache, slots, mask=mask, bias=bias, rotation=rotation)
        x = _add_branch(self, self.attention_norm, x, y)
        y = self.mlp(_branch_input(self, self.mlp_norm, x))
        return _add_branch(self, self.mlp_norm, x, y), cache


class CrossAttentionBlock(eqx.Module):
    """A decoder's block over a memory: self-attention, cross-attention to the memory, a feed-forward layer.

    Each with norm, residual and dropout as in `TransformerBlock`. The keys and values of a memory depend on
    nothing else, so `project_memory` computes them once and `extend` takes them for every new token.

    References: Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762, section 3.1.

    Example:
        >>> keys = jax.random.split(jax.random.key(0), 3)
        >>> attention, cross_attention = (MultiHeadAttention(8, 2, key=key) for key in keys[:2])
        >>> block = CrossAttentionBlock(attention, cross_attention, FeedForward(8, 32, key=keys[2]), embed_size=8)
        >>> block(jax.numpy.ones((5, 8)), memory=jax.numpy.ones((3, 8))).shape
        (5, 8)
    """

    num_attentions: ClassVar[int] = 2

    attention_norm: eqx.nn.LayerNorm | eqx.nn.RMSNorm
    attention: MultiHeadAttention
    cross_attention_norm: eqx.nn.LayerNorm | eqx.nn.RMSNorm
    cross_attention: MultiHeadAttention
    mlp_norm: eqx.nn.LayerNorm | eqx.nn.RMSNorm
    mlp: FeedForward
    dropout: Dropout
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
        """Arguments as for `TransformerBlock`, with a second attention: that to the memory."""
        check_probability(dropout_p=dropout_p)
        self.attention_norm, self.cross_attention_norm, self.mlp_norm = (
            make_norm(norm, embed_size, epsilon=norm_epsilon, use_bias=use_norm_bias) for _ in range(3)
        )
        self.attention, self.cross_attention, self.mlp = attention, cross_attention, mlp
        self.dropout = Dropout(dropout_p)
        self.pre_norm = pre_norm

    def __call__(
        self,
        x: Float[Array, "seq embed"],
        *,
        memory: Float[Array, "memory embed"],
        mask: Bool[Array, "#seq seq"] | None = None,
        memory_mask: Bool[Array, "#seq memory"] | None = None,
        bias: Float[Array, "#heads #seq seq"] | None = None,
        causal: bool = False,
        rotation: Rotation | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "seq embed"]:
        """A whole sequence, each token of which may attend to the memory.

        Args:
            x: the sequence.
            memory: an encoder's output.
            mask: True where a token may attend to one of `x`.
            causal: whether it may attend to itself and earlier ones alone, as in a decoder.
            memory_mask: True where it may attend to one of `memory`: not to padding.
            bias, rotation: of the self-attention, as in `MultiHeadAttention`.
            key: for dropout, in training.
        """
        weights_key, attention_key, cross_weights_key, cross_key, mlp_key = (
            (None,) * 5 if key is None else jax.random.split(key, 5)
        )
        y = _branch_input(self, self.attention_norm, x)
        y = self.attention(y, mask=mask, bias=bias, causal=causal, rotation=rotation, key=weights_key)
        x = _add_branch(self, self.attention_norm, x, y, attention_key)
        y = _branch_input(self, self.cross_attention_norm, x)
        y = self.cross_attention(y, memory, mask=memory_mask, key=cross_weights_key)
        x = _add_branch(self, self.cross_attention_norm, x, y, cross_key)
        y = self.mlp(_branch_input(self, self.mlp_norm, x))
        return _add_branch(self, self.mlp_norm, x, y, mlp_key)

    def cross_attention_weights(
        self,
        x: Float[Array, "seq embed"],
        *,
        memory: Float[Array, "memory embed"],
        mask: Bool[Array, "#seq seq"] | None = None,
        memory_mask: Bool[Array, "#seq memory"] | None = None,
        bias: Float[Array, "#heads #seq seq"] | None = None,
        rotation: Rotation | None = None,
    ) -> Float[Array, "heads seq memory"]:
        """The weights with which each head of each token attends to the memory, for pictures. As `__call__`."""
        y = self.attention(_branch_input(self, self.attention_norm, x), mask=mask, bias=bias, rotation=rotation)
        x = _add_branch(self, self.attention_norm, x, y)
        y = _branch_input(self, self.cross_attention_norm, x)
        return self.cross_attention.weights(y, memory, mask=memory_mask)

    def project_memory(self, memory: Float[Array, "memory embed"]) -> KVCache:
        """The keys and values of a memory, for `extend`."""
        return KVCache(*self.cross_attention.project_keys_values(memory))

    def extend(
        self,
        x: Float[Array, "seq embed"],
        cache: KVCache,
        slots: Int[Array, " seq"],
        *,
        projected_memory: KVCache,
        mask: Bool[Array, "#seq capacity"],
        memory_mask: Bool[Array, "#seq memory"] | None = None,
        bias: Float[Array, "#heads #seq capacity"] | None = None,
        rotation: Rotation | None = None,
    ) -> tuple[Float[Array, "seq embed"], KVCache]:
        """New tokens after those in a cache. Meant for inference mode.

        Args:
            x, cache, slots, mask, bias, rotation: as in `MultiHeadAttention.extend`.
            projected_memory: what `project_memory` made of the memory.
            memory_mask: as in `__call__`.
        """
        y = _branch_input(self, self.attention_norm, x)
        y, cache = self.attention.extend(y, cache, slots, mask=mask, bias=bias, rotation=rotation)
        x = _add_branch(self, self.attention_norm, x, y)
        cross, keys, values = self.cross_attention, projected_memory.keys, projected_memory.values
        queries = cross.project_queries(_branch_input(self, self.cross_attention_norm, x))
        y = cross.merge(attend(queries, keys, values, scale=cross.scale, mask=memory_mask))
        x = _add_branch(self, self.cross_attention_norm, x, y)
        y = self.mlp(_branch_input(self, self.mlp_norm, x))
        return _add_branch(self, self.mlp_norm, x, y), cache


Norm = eqx.nn.LayerNorm | eqx.nn.RMSNorm | eqx.nn.Identity
AnyBlock = TransformerBlock | CrossAttentionBlock


def _branch_input(block: AnyBlock, norm: Norm, x: Float[Array, "seq embed"]) -> Float[Array, "seq embed"]:
    """What goes into a residual branch: normalised where the block is pre-norm."""
    return jax.vmap(norm)(x) if block.pre_norm else x


def _add_branch(
    block: AnyBlock,
    norm: Norm,
    x: Float[Array, "seq embed"],
    branch: Float[Array, "seq embed"],
    key: PRNGKeyArray | None = None,
) -> Float[Array, "seq embed"]:
    """The residual sum, with dropout on the branch; normalised where the block is post-norm."""
    total = x + block.dropout(branch, key=key)
    return total if block.pre_norm else jax.vmap(norm)(total)
