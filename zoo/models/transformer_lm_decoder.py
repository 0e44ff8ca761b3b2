"""A `TransformerLM` one token at a time: what `zoo.sampling` writes with."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Float32, Int

from zoo.decoder import AbstractDecoder, PositionIndexed
from zoo.nn.attention import KVCache
from zoo.nn.checks import check_sizes
from zoo.nn.masks import cache_mask
from zoo.nn.stack import Stack
from zoo.nn.transformer import TransformerBlock


class TransformerLMState(eqx.Module):
    """The tokens seen so far: keys and values in each layer, and how many there are."""

    caches: PositionIndexed[tuple[KVCache, ...]]
    position: Int[Array, ""]


class TransformerLMDecoder(AbstractDecoder[TransformerLMState]):
    """A `TransformerLM` one token at a time, made by `TransformerLM.decoder()`.

    Its blocks are not stacked: slices of stacked weights and caches would be copied at every token.
    """

    shell: Any  # a `TransformerLM` without its blocks: embedding, positions, last norm and head
    blocks: tuple[TransformerBlock, ...]
    vocab_size: int = eqx.field(static=True)
    max_length: int | None = eqx.field(static=True)

    def init_state(self, capacity: int) -> TransformerLMState:
        check_sizes(capacity=capacity)
        if self.max_length is not None and capacity > self.max_length:
            raise ValueError(f"capacity ({capacity}) exceeds max_length ({self.max_length})")
        attention, dtype = self.blocks[0].attention, self.shell.embedding.weight.dtype
        cache = KVCache.empty(attention.num_kv_heads, capacity, attention.head_size, dtype)
        return TransformerLMState(PositionIndexed((cache,) * len(self.blocks)), jnp.array(0, jnp.int32))

    def prefill(
        self, tokens: Int[Array, " seq"], state: TransformerLMState, *, length: Int[Array, ""] | int | None = None
    ) -> tuple[Float[Array, " vocab"], TransformerLMState]:
        length = tokens.shape[0] if length is None else length
        x, state, fits = self._take_in(tokens, state, length)
        last = jnp.take(x, length - 1, axis=0, mode="clip")
        return jnp.where(fits & (length >= 1), self._score(last), jnp.nan), state

    def extend(
        self, tokens: Int[Array, " seq"], state: TransformerLMState
    ) -> tuple[Float[Array, "seq vocab"], TransformerLMState]:
        x, state, fits = self._take_in(tokens, state, tokens.shape[0])
        return jnp.where(fits, jax.vmap(self._score)(x), jnp.nan), state

    def step(
        self, token: Int[Array, ""], state: TransformerLMState
    ) -> tuple[Float[Array, " vocab"], TransformerLMState]:
        x, shared = self._enter(token[None], state, 1)
        caches = []
        for block, cache in zip(self.blocks, state.caches.value, strict=True):
            x, cache = block.extend(x, cache, **shared)
            caches.append(cache)
        state, fits = _moved(state, tuple(caches), 1)
        return jnp.where(fits, self._score(x[0]), jnp.nan), state

    def _take_in(
        self, tokens: Int[Array, " seq"], state: TransformerLMState, length: Int[Array, ""] | int
    ) -> tuple[Float[Array, "seq embed"], TransformerLMState, Bool[Array, ""]]:
        """Many tokens through the blocks, which are stacked for it: what comes out, and whether they fit."""
        x, shared = self._enter(tokens, state, length)
        blocks, caches = Stack.of(self.blocks), Stack.of(state.caches.value)
        x, written = blocks.scan(lambda block, x, cache: block.extend(x, cache, **shared), x, caches.blocks)
        return x, *_moved(state, Stack(written, len(caches)).unstack(), length)

    def _enter(
        self, tokens: Int[Array, " seq"], state: TransformerLMState, length: Int[Array, ""] | int
    ) -> tuple[Float[Array, "seq embed"], dict[str, Any]]:
        """What goes into the first block, and what goes into all: slots, mask and rotation."""
        capacity = state.caches.value[0].capacity
        offsets = jnp.arange(tokens.shape[0])
        positions = state.position + offsets
        x, rotation = self.shell.embed(tokens, positions)
        slots = jnp.where(offsets < length, positions, capacity)  # padding is meant for no slot
        return x, {"slots": slots, "mask": cache_mask(positions, capacity), "rotation": rotation}

    def _score(self, x: Float[Array, " embed"]) -> Float32[Array, " vocab"]:
        return self.shell.project(self.shell.norm_out(x))


def _moved(
    state: TransformerLMState, caches: tuple[KVCache, ...], length: Int[Array, ""] | int
) -> tuple[TransformerLMState, Bool[Array, ""]]:
    """The state behind `length` more tokens, and whether the capacity held them."""
    capacity, position = caches[0].capacity, state.position + length
    return TransformerLMState(PositionIndexed(caches), jnp.minimum(position, capacity)), position <= capacity
