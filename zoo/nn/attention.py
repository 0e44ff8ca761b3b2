"""Multi-head attention in three steps that can be used apart (project, attend, extend)."""

import functools
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from zoo.nn.checks import check_probability, head_sizes
from zoo.nn.embedding import Rotation
from zoo.nn.kv_cache import KVCache, slots_in_use
from zoo.nn.linear import AbstractLinear, Linear
from zoo.nn.masks import cache_mask

CAUSAL_BLOCK = 128  # least queries that are attended for together, and
MOST_BLOCKS = 4  # most blocks of a sequence: each takes time to compile
SMALLEST_ROOM = 64  # slots of a cache; to leave out fewer gains nothing
MASKED = -1e30  # finite: where all is masked, minus infinity would give NaN


def attend(
    queries: Float[Array, "heads query head"],
    keys: Float[Array, "kv_heads key head"],
    values: Float[Array, "kv_heads key size"],
    *,
    scale: float,
    mask: Bool[Array, "#query key"] | None = None,
    bias: Float[Array, "#heads #query key"] | None = None,
    score_cap: float | None = None,
    causal: bool = False,
    dropout: eqx.nn.Dropout | None = None,
    key: PRNGKeyArray | None = None,
) -> Float[Array, "heads query size"]:
    """Each query's average of the values, weighted by the softmax of its products with the keys.

    The one place where the implementation of attention is chosen: a heads-first product on every backend that
    was tried (CPUs). Products are summed and the softmax is taken in float32.

    Args:
        queries, keys, values: with fewer kv_heads than heads, each serves heads / kv_heads queries in a row.
        scale: what the products are multiplied by.
        mask: True where a query may attend to a key; a query without any key gives zeros.
        bias: added to the scaled products.
        score_cap: what their magnitude stays below (`softcap`); no bound by default.
        causal: whether query i attends to keys 0 to i alone, besides what a mask says: as `causal_mask`, but of a
            long sequence what lies after a query's block is never computed.
        dropout: applied to the weights, with `key`.
    """
    if not causal:
        return _attend(queries, keys, values, scale, mask, bias, score_cap, dropout, key)
    length = queries.shape[1]
    if keys.shape[1] != length:
        raise ValueError(f"causal attention needs as many keys as queries, got {keys.shape[1]} and {length}")
    block = max(CAUSAL_BLOCK, -(-length // MOST_BLOCKS))
    starts = range(0, length, block)
    block_keys = [key] * len(starts) if key is None or len(starts) == 1 else jax.random.split(key, len(starts))

    def part(array: Array | None, start: int, end: int) -> Array | None:
        """Of a mask or a bias, which may have one row for all queries."""
        return None if array is None else (array if array.shape[-2] == 1 else array[..., start:end, :])[..., :end]

    outs = []
    for start, block_key in zip(starts, block_keys, strict=True):
        end = min(start + block, length)
        seen, allowed = cache_mask(jnp.arange(start, end), end), part(mask, start, end)
        seen = seen if allowed is None else seen & allowed
        heads = queries[:, start:end], keys[:, :end], values[:, :end]
        outs.append(_attend(*heads, scale, seen, part(bias, start, end), score_cap, dropout, block_key))
    return outs[0] if len(outs) == 1 else jnp.concatenate(outs, axis=1)


def _attend(
    queries: Float[Array, "heads query head"],
    keys: Float[Array, "kv_heads key head"],
    values: Float[Array, "kv_heads key size"],
    scale: float,
    mask: Bool[Array, "#query key"] | None,
    bias: Float[Array, "#heads #query key"] | None,
    score_cap: float | None,
    dropout: eqx.nn.Dropout | None,
    key: PRNGKeyArray | None,
) -> Float[Array, "heads query size"]:
    heads, query_length, head_size = queries.shape
    kv_heads, key_length, _ = keys.shape
    # The queries that share keys stand in one matrix: (kv_heads, heads / kv_heads * query, head).
    grouped = (queries * scale).astype(keys.dtype).reshape(kv_heads, -1, head_size)
    scores = jnp.einsum("kqd,ksd->kqs", grouped, keys, preferred_element_type=jnp.float32)
    scores = scores.reshape(heads, query_length, key_length)
    if score_cap is not None:
        scores = softcap(scores, score_cap)
    if bias is not None:
        scores = scores + bias.astype(jnp.float32)
    if mask is not None:
        # A sum needs nothing kept for its gradient, where `softmax(where=mask)` keeps five arrays as large as these.
        scores = scores + jnp.where(mask, 0.0, MASKED)[None]
    weights = jax.nn.softmax(scores)
    if dropout is not None:
        weights = dropout(weights, key=key)
    weights = weights.reshape(kv_heads, -1, key_length).astype(values.dtype)
    out = jnp.einsum("kqs,ksd->kqd", weights, values, preferred_element_type=jnp.float32)
    out = out.reshape(heads, query_length, values.shape[-1])
    if mask is not None:
        out = jnp.where(jnp.any(mask, axis=-1)[None, :, None], out, 0.0)
    return out.astype(queries.dtype)


def attend_to_cache(
    queries: Float[Array, "heads query head"],
    cache: KVCache,
    *,
    scale: float,
    mask: Bool[Array, "#query capacity"],
    bias: Float[Array, "#heads #query capacity"] | None = None,
    score_cap: float | None = None,
) -> Float[Array, "heads query size"]:
    """`attend` to the slots of a cache. One query reads those in use and few more, however many there are.

    It reads a sixteenth, a quarter or all of a large cache: three programs, since shapes are fixed.
    """

    def attend_to(room: int, queries: Array, cache: KVCache, mask: Array, bias: Array | None) -> Array:
        return attend(
            queries, cache.keys[:, :room], cache.values[:, :room],
            scale=scale, mask=mask[:, :room], bias=None if bias is None else bias[:, :, :room], score_cap=score_cap,
        )  # fmt: skip

    capacity = cache.capacity
    rooms = [room for room in (capacity // 16, capacity // 4) if room >= SMALLEST_ROOM] + [capacity]
    if queries.shape[1] > 1 or len(rooms) == 1:
        return attend_to(capacity, queries, cache, mask, bias)
    used = slots_in_use(mask)
    index = sum((used > room).astype(jnp.int32) for room in rooms[:-1])
    return lax.switch(index, [functools.partial(attend_to, room) for room in rooms], queries, cache, mask, bias)


def softcap(x: Float[Array, "*shape"], cap: float) -> Float[Array, "*shape"]:
    """`cap * tanh(x / cap)`: small numbers as they are, large ones bent to stay below `cap` in magnitude.

    Example:
        >>> softcap(jnp.array([1.0, 1000.0]), 50.0).round().tolist()
        [1.0, 50.0]
    """
    return cap * jnp.tanh(x / cap)


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
    dropout: eqx.nn.Dropout
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
        self.dropout = eqx.nn.Dropout(dropout_p)
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
