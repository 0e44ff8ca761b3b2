"""Decoders with key-value caches and their state, for the Transformers of the zoo that generate."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, DTypeLike, Float, Float32, Int

from zoo.decoder import AbstractDecoder, PositionIndexed
from zoo.nn.attention import MultiHeadAttention
from zoo.nn.checks import check_sizes
from zoo.nn.embedding import TokenEmbedding
from zoo.nn.kv_cache import KVCache
from zoo.nn.masks import cache_mask


class KVState(eqx.Module):
    """The tokens so far: keys and values in each layer, and how many tokens there are.

    Example:
        >>> attention = MultiHeadAttention(8, 2, key=jax.random.key(0))
        >>> state = KVState.empty([attention], 16, max_length=20, dtype=jnp.float32)
        >>> state.capacity, int(state.position)
        (16, 0)
    """

    caches: PositionIndexed[tuple[KVCache, ...]]
    position: Int[Array, ""]

    @staticmethod
    def empty(
        attentions: Sequence[MultiHeadAttention], capacity: int, *, max_length: int | None, dtype: DTypeLike
    ) -> "KVState":
        """No tokens yet.

        Args:
            attentions: of each layer, equal in the number and the size of their heads.
            capacity: how many tokens the state can hold.
            max_length: the most that the model takes.
            dtype: of keys and values; on a CPU those of 16 bits are float32, because XLA's CPU backend would convert
                whole caches of 16 bits to float32 and back at every token.

        Raises:
            ValueError: `capacity` is less than 1 or more than `max_length`.
        """
        check_sizes(capacity=capacity)
        if max_length is not None and capacity > max_length:
            raise ValueError(f"capacity ({capacity}) exceeds max_length ({max_length})")
        if jnp.dtype(dtype).itemsize == 2 and jax.default_backend() == "cpu":
            dtype = jnp.float32
        cache = KVCache.empty(attentions[0].num_kv_heads, capacity, attentions[0].head_size, dtype)
        return KVState(PositionIndexed((cache,) * len(attentions)), jnp.array(0, jnp.int32))

    @property
    def capacity(self) -> int:
        return self.caches.value[0].capacity

    def place(
        self, seq: int, length: Int[Array, ""] | int, window: int | None = None
    ) -> tuple[Int[Array, "{seq}"], Int[Array, "{seq}"], Bool[Array, "{seq} capacity"]]:
        """Where `seq` new tokens belong, of which the first `length` are real and the rest is padding.

        Returns:
            Their positions, their slots in the caches, and the mask of causal attention to these or to the last
            `window` of them.
        """
        offsets = jnp.arange(seq)
        positions = self.position + offsets
        slots = jnp.where(offsets < length, positions, self.capacity)  # padding is dropped: no such slot
        return positions, slots, cache_mask(positions, self.capacity, window)

    def advance(self, caches: tuple[KVCache, ...], length: Int[Array, ""] | int) -> tuple["KVState", Bool[Array, ""]]:
        """The state after `length` more tokens, which `caches` hold, and whether they fitted."""
        position = self.position + length
        advanced = KVState(PositionIndexed(caches), jnp.minimum(position, self.capacity))
        return advanced, position <= self.capacity


class AbstractKVDecoder(AbstractDecoder[KVState]):
    """The protocol of a decoder, from how many tokens go through its blocks and what logits come of a vector.

    Its blocks are not stacked: slices of stacked weights and caches would be copied at every token.
    """

    embedding: eqx.AbstractVar[TokenEmbedding]
    blocks: eqx.AbstractVar[tuple[Any, ...]]

    @abstractmethod
    def forward(
        self, tokens: Int[Array, " seq"], state: KVState, length: Int[Array, ""] | int
    ) -> tuple[Float[Array, "seq embed"], KVState, Bool[Array, ""]]:
        """Tokens through the blocks: the last output, the state after `length` of them, and whether they fit."""

    @abstractmethod
    def logits(self, x: Float[Array, " embed"]) -> Float32[Array, " vocab"]:
        """Of one vector that came out of the last block."""

    def init_state(self, capacity: int) -> KVState:
        attentions = [block.attention for block in self.blocks]
        return KVState.empty(attentions, capacity, max_length=self.max_length, dtype=self.embedding.weight.dtype)

    def prefill(
        self, tokens: Int[Array, " seq"], state: KVState, *, length: Int[Array, ""] | int | None = None
    ) -> tuple[Float32[Array, " vocab"], KVState]:
        length = tokens.shape[0] if length is None else length
        x, state, fits = self.forward(tokens, state, length)
        last = jnp.take(x, length - 1, axis=0, mode="clip")
        return jnp.where(fits & (length >= 1), self.logits(last), jnp.nan), state

    def extend(self, tokens: Int[Array, " seq"], state: KVState) -> tuple[Float32[Array, "seq vocab"], KVState]:
        x, state, fits = self.forward(tokens, state, tokens.shape[0])
        return jnp.where(fits, jax.vmap(self.logits)(x), jnp.nan), state

    def step(self, token: Int[Array, ""], state: KVState) -> tuple[Float32[Array, " vocab"], KVState]:
        x, state, fits = self.forward(token[None], state, 1)
        return jnp.where(fits, self.logits(x[0]), jnp.nan), state
