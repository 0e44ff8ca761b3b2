"""Multi-head attention in three steps that can be used apart (project, attend, extend)."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from zoo.nn.checks import check_probability, head_sizes
from zoo.nn.dropout import Dropout
from zoo.nn.embedding import Rotation
from zoo.nn.kv_cache import KVCache
from zoo.nn.linear import AbstractLinear, Linear
from zoo.nn.scaled_dot_product import attend, attend_to_cache


class MultiHeadAttention(eqx.Module):
    """Lets each token of a sequence gather from others: of its own sequence, of a memory, or of a cache.

    `__call__` is `project_queries` + `project_keys_values` + `attend` + `merge`; `extend` is the same for new
    tokens after those in a `KVCache`; a caller who keeps keys and values (cross-attention) uses the steps.

    References: Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762, section 3.2; Ainslie et
    al., "GQA", 2023, arXiv:2305.13245, for fewer heads of keys and values.

    Example:
        >>> attention = MultiHeadAttention(8, 2, key=jax.random.key(0))
        >>> attention(jnp.ones((5, 8))).shape
        (5, 8)
    """

    query: AbstractLinear
    key: AbstractLinear
    value: AbstractLinear
    output: AbstractLinear
    query_norm: eqx.Module | None
    key_norm: eqx.Module | None
    dropout: Dropout
    num_heads: int = eqx.field(static=True)
    num_kv_heads: int = eqx.field(static=True)
    head_size: int = eqx.field(static=True)
    scale: float = eqx.field(static=True)
    score_cap: float | None = eqx.field(static=True)

    def __init__(
        self,
        embed_size: int,
        num_heads: int,
        *,
        num_kv_heads: int | None = None,
        head_size: int | None = None,
        scale: float | None = None,
        score_cap: float | None = None,
        make_head_norm: Callable[[int], eqx.Module] | None = None,
        use_query_bias: bool = True,
        use_key_bias: bool = True,
        use_value_bias: bool = True,
        use_output_bias: bool = True,
        weight_std: float | None = None,
        out_scale: float = 1.0,
        dropout_p: float = 0.0,
        key: PRNGKeyArray,
    ):
        """
        Args:
            embed_size: length of the vectors that go in and come out.
            num_heads: number of heads of queries.
            num_kv_heads: number of heads of keys and values, a divisor of `num_heads`; as many by default.
            head_size: length of a head's vectors; `embed_size / num_heads` by default.
            scale: of the scores; `1 / sqrt(head_size)` by default (T5 takes 1).
            score_cap: what the magnitude of scores stays below (Gemma 2 takes 50); no bound by default.
            make_head_norm: makes a norm of vectors of that size, one for queries and one for keys, which is applied
                to every head before the rotation (Qwen3); none by default.
            use_query_bias, use_key_bias, use_value_bias, use_output_bias: a bias in that projection or none.
            weight_std: standard deviation of the initial weights; as in `Linear` by default.
            out_scale: factor on it for the output projection.
            dropout_p: probability of dropping an attention weight, in [0, 1).
            key: for the weights.
        """
        num_kv_heads, head_size = head_sizes(embed_size, num_heads, num_kv_heads, head_size)
        check_probability(dropout_p=dropout_p)
        query_key, key_key, value_key, output_key = jax.random.split(key, 4)
        size, kv_size = num_heads * head_size, num_kv_heads * head_size
        # A fresh model's scores have the same variance whatever their scale.
        query_scale = 1.0 if scale is None else 1.0 / (scale * math.sqrt(head_size))
        self.query = Linear(
            embed_size, size, use_bias=use_query_bias, std=weight_std, scale=query_scale, key=query_key
        )
        self.key = Linear(embed_size, kv_size, use_bias=use_key_bias, std=weight_std, key=key_key)
        self.value = Linear(embed_size, kv_size, use_bias=use_value_bias, std=weight_std, key=value_key)
        self.output = Linear(
            size, embed_size, use_bias=use_output_bias, std=weight_std, scale=out_scale, key=output_key
        )
        self.query_norm, self.key_norm = (
            None if make_head_norm is None else make_head_norm(head_size) for _ in range(2)
        )
        self.dropout = Dropout(dropout_p)
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads
        self.head_size = head_size
        self.scale = 1.0 / math.sqrt(head_size) if scale is None else scale
        self.score_cap = score_cap

    def project_queries(
        self, x: Float[Array, "seq embed"], rotation: Rotation | None = None
    ) -> Float[Array, "{self.num_heads} seq {self.head_size}"]:
        """The queries of each token, turned to its position if a rotation is given."""
        queries = _normalised(self.query_norm, _split_heads(self.query(x), self.num_heads))
        return queries if rotation is None else rotation(queries)

    def project_keys_values(
        self, x: Float[Array, "seq embed"], rotation: Rotation | None = None
    ) -> tuple[
        Float[Array, "{self.num_kv_heads} seq {self.head_size}"],
        Float[Array, "{self.num_kv_heads} seq {self.head_size}"],
    ]:
        """The keys and values of each token; only keys are turned."""
        keys, values = (_split_heads(layer(x), self.num_kv_heads) for layer in (self.key, self.value))
        keys = _normalised(self.key_norm, keys)
        return (keys if rotation is None else rotation(keys)), values

    def merge(self, heads: Float[Array, "heads seq head"]) -> Float[Array, "seq embed"]:
        """The output projection of what all heads found for a token."""
        return self.output(heads.transpose(1, 0, 2).reshape(heads.shape[1], -1))

    def __call__(
        self,
        x: Float[Array, "seq embed"],
        memory: Float[Array, "memory embed"] | None = None,
        *,
        mask: Bool[Array, "#seq key"] | None = None,
        bias: Float[Array, "#heads #seq key"] | None = None,
        causal: bool = False,
        rotation: Rotation | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "seq embed"]:
        """
        Args:
            x: the query sequence.
            memory: the key-value sequence; `x` itself by default.
            mask: True where a token of `x` may attend to one of `memory`.
            bias: added to the scaled scores, one matrix per head or for all.
            causal: whether a token attends to itself and earlier ones alone (self-attention alone).
            rotation: rotary positions of `x` (self-attention alone).
            key: for dropout, in training.
        """
        queries = self.project_queries(x, rotation)
        keys, values = self.project_keys_values(x if memory is None else memory, rotation)
        heads = attend(
            queries, keys, values,
            scale=self.scale, mask=mask, bias=bias, score_cap=self.score_cap, causal=causal,
            dropout=self.dropout, key=key,
        )  # fmt: skip
        return self.merge(heads)

    def weights(
        self,
        x: Float[Array, "seq embed"],
        memory: Float[Array, "memory embed"] | None = None,
        *,
        mask: Bool[Array, "#seq key"] | None = None,
        bias: Float[Array, "#heads #seq key"] | None = None,
        causal: bool = False,
        rotation: Rotation | None = None,
    ) -> Float[Array, "{self.num_heads} seq key"]:
        """With what weights `__call__` averages, before dropout: for pictures. Arguments as there."""
        queries = self.project_queries(x, rotation)
        keys, _ = self.project_keys_values(x if memory is None else memory, rotation)
        # The average of unit vectors, weighted by attention, is the weights.
        units = jnp.broadcast_to(jnp.eye(keys.shape[1], dtype=keys.dtype), (keys.shape[0], *[keys.shape[1]] * 2))
        return attend(
            queries, keys, units, scale=self.scale, mask=mask, bias=bias, score_cap=self.score_cap, causal=causal
        )

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
        """Self-attention of new tokens to themselves and to those in the cache, which they join. No dropout.

        Args:
            x: the new tokens.
            cache: the earlier ones.
            slots: where each new token goes; one outside the capacity is not stored.
            mask: True where a new token may attend to a slot.
            bias, rotation: as in `__call__`.
        """
        queries = self.project_queries(x, rotation)
        cache = cache.write(*self.project_keys_values(x, rotation), slots)
        heads = attend_to_cache(queries, cache, scale=self.scale, mask=mask, bias=bias, score_cap=self.score_cap)
        return self.merge(heads), cache


def _split_heads(x: Float[Array, "seq size"], num_heads: int) -> Float[Array, "{num_heads} seq head"]:
    return x.reshape(x.shape[0], num_heads, -1).transpose(1, 0, 2)


def _normalised(norm: Any, heads: Float[Array, "heads seq head"]) -> Float[Array, "heads seq head"]:
    return heads if norm is None else jax.vmap(jax.vmap(norm))(heads)
