"""A stack of equal blocks from sizes and choices, as most of the zoo's Transformers have it."""

import functools
from typing import Any, Literal, TypeVar

import jax
from jaxtyping import PRNGKeyArray

from zoo.nn.attention import MultiHeadAttention
from zoo.nn.checks import check_choice
from zoo.nn.feed_forward import FeedForward
from zoo.nn.norm import make_norm
from zoo.nn.stack import Stack
from zoo.nn.transformer import CrossAttentionBlock, TransformerBlock

ATTENTION_BIASES = ("all", "qkv", "none")

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
