"""Attention itself, given queries, keys and values of each head: the one place where its implementation is chosen."""

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, PRNGKeyArray

from zoo.nn.dropout import Dropout
from zoo.nn.kv_cache import KVCache, slots_in_use
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
    dropout: Dropout | None = None,
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
    dropout: Dropout | None,
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
