"""A Transformer's blocks: attention, perhaps also to a memory, and a feed-forward layer, all with residuals."""

import functools
from typing import Any, ClassVar, Literal, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from zoo.nn.attention import MultiHeadAttention, attend
from zoo.nn.checks import check_choice, check_positive, check_probability
from zoo.nn.embedding import Rotation
from zoo.nn.feed_forward import FeedForward
from zoo.nn.kv_cache import KVCache
from zoo.nn.stack import Stack

NORMS = ("layer", "rms")
ATTENTION_BIASES = ("all", "qkv", "none")


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
            pre_norm: whether the norms stand before the parts or after the sums.
            norm: "layer" or "rms", with its epsilon and, for "layer", a bias or none.
            dropout_p: dropout probability of the residual branches, in [0, 1).
        """
        check_probability(dropout_p=dropout_p)
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
        """Arguments as for `TransformerBlock`, with a second attention: that to the memory."""
        check_probability(dropout_p=dropout_p)
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
        queries = self.cross_attention.project_queries(_branch_input(self, self.cross_attention_norm, x))
        keys, _ = self.cross_attention.project_keys_values(memory)
        # The average of unit vectors, weighted by attention, is the weights.
        units = jnp.broadcast_to(jnp.eye(keys.shape[1], dtype=keys.dtype), (keys.shape[0], *[keys.shape[1]] * 2))
        return attend(queries, keys, units, scale=self.cross_attention.scale, mask=memory_mask)

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


Block = TypeVar("Block", TransformerBlock, CrossAttentionBlock)


def make_blocks(
    block: type[Block],
    num_layers: int,
    embed_size: int,
    num_heads: int,
    mlp_size: int,
    *,
    num_kv_heads: int | None = None,
    head_size: int | None = None,
    attention_scale: float | None = None,
    activation: str = "relu",
    gated: bool = False,
    pre_norm: bool = True,
    norm: Literal["layer", "rms"] = "layer",
    norm_epsilon: float = 1e-6,
    qk_norm: bool = False,
    use_bias: bool = True,
    attention_bias: Literal["all", "qkv", "none"] | None = None,
    weight_std: float | None = None,
    out_scale: float = 1.0,
    dropout_p: float = 0.0,
    attention_dropout_p: float = 0.0,
    remat: bool = False,
    key: PRNGKeyArray,
) -> Stack[Block]:
    """A stack of equal blocks: what the Transformers of the zoo have in common.

    Args:
        block: `TransformerBlock` or `CrossAttentionBlock`.
        num_layers: number of blocks.
        embed_size, num_heads, num_kv_heads, head_size: of the attentions, as in `MultiHeadAttention`.
        attention_scale: `scale` of the attentions.
        mlp_size, activation, gated: of the feed-forward layers, as in `FeedForward`.
        pre_norm, norm, norm_epsilon: of the norms, as in `TransformerBlock`.
        qk_norm: whether a norm is applied to each head's queries and keys.
        use_bias: biases in all projections and in LayerNorm.
        attention_bias: which projections of attention have one, whatever `use_bias` says.
        weight_std: standard deviation of the initial weights; as in `Linear` by default.
        out_scale: factor on it for the layers that write to the residual stream.
        dropout_p: dropout probability of the residual branches, in [0, 1).
        attention_dropout_p: dropout probability of the attention weights, in [0, 1).
        remat: as in `Stack.make`.
        key: for the weights.
    """
    attention_bias = attention_bias or ("all" if use_bias else "none")
    check_choice("attention_bias", attention_bias, ATTENTION_BIASES)
    qkv_bias, output_bias = attention_bias != "none", attention_bias == "all"
    make_head_norm = functools.partial(make_norm, norm, epsilon=norm_epsilon, use_bias=use_bias)

    def make(key: PRNGKeyArray) -> Block:
        *attention_keys, mlp_key = jax.random.split(key, block.num_attentions + 1)
        make_attention = functools.partial(
            MultiHeadAttention, embed_size, num_heads, num_kv_heads=num_kv_heads, head_size=head_size,
            make_head_norm=make_head_norm if qk_norm else None,
            use_query_bias=qkv_bias, use_key_bias=qkv_bias, use_value_bias=qkv_bias, use_output_bias=output_bias,
            scale=attention_scale, weight_std=weight_std, out_scale=out_scale, dropout_p=attention_dropout_p,
        )  # fmt: skip
        mlp = FeedForward(
            embed_size, mlp_size, activation=activation, gated=gated, use_bias=use_bias, weight_std=weight_std,
            out_scale=out_scale, key=mlp_key,
        )  # fmt: skip
        attentions: Any = [make_attention(key=key) for key in attention_keys]
        make_block: Any = block  # of one attention or two
        return make_block(
            *attentions, mlp, embed_size=embed_size, pre_norm=pre_norm,
            norm=norm, norm_epsilon=norm_epsilon, use_norm_bias=use_bias, dropout_p=dropout_p,
        )  # fmt: skip

    return Stack.make(make, num_layers, remat=remat, key=key)
