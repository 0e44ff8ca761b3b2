"""The decoder side of an `EncoderDecoder`, one token at a time: what `zoo.sampling` writes a target with."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jaxtyping import Bool, Float, Float32, Int

from zoo.decoder import AbstractDecoder
from zoo.models.kv_state import KVState
from zoo.nn.embedding import LearnedPositions, SinusoidalPositions, TokenEmbedding
from zoo.nn.kv_cache import KVCache
from zoo.nn.linear import AbstractLinear
from zoo.nn.transformer import CrossAttentionBlock

# Logits of a fresh model have a variance of 0.04, so its loss is ln(vocab_size) to a few hundredths.
FRESH_LOGIT_STD = 0.2


class ProjectedMemory(eqx.Module):
    """All that a decoder keeps of a source: keys and values in each layer, and which of them are real."""

    layers: tuple[KVCache, ...]
    mask: Bool[Array, "*batch 1 source"]


class TargetDecoder(AbstractDecoder[KVState]):
    """The decoder of an `EncoderDecoder` that has read its source, made by `EncoderDecoder.decoder(source)`.

    The source is part of the decoder, not of the state, so that beams and samples do not copy it. Blocks are not
    stacked: slices of stacked weights and caches would be copied at every token.
    """

    embedding: TokenEmbedding
    position_embedding: LearnedPositions | SinusoidalPositions
    blocks: tuple[CrossAttentionBlock, ...]
    decoder_norm: eqx.nn.LayerNorm | eqx.nn.RMSNorm | None
    head: AbstractLinear | None
    projected_memory: ProjectedMemory
    vocab_size: int = eqx.field(static=True)
    max_length: int | None = eqx.field(static=True)

    def init_state(self, capacity: int) -> KVState:
        attentions = [block.attention for block in self.blocks]
        return KVState.empty(attentions, capacity, max_length=self.max_length, dtype=self.embedding.weight.dtype)

    def prefill(
        self, tokens: Int[Array, " seq"], state: KVState, *, length: Int[Array, ""] | int | None = None
    ) -> tuple[Float32[Array, " vocab"], KVState]:
        length = tokens.shape[0] if length is None else length
        x, state, fits = self._forward(tokens, state, length)
        last = jnp.take(x, jnp.atleast_1d(length) - 1, axis=0, mode="clip")
        return jnp.where(fits & (length >= 1), self._logits(last)[0], jnp.nan), state

    def extend(self, tokens: Int[Array, " seq"], state: KVState) -> tuple[Float32[Array, "seq vocab"], KVState]:
        x, state, fits = self._forward(tokens, state, tokens.shape[0])
        return jnp.where(fits, self._logits(x), jnp.nan), state

    def step(self, token: Int[Array, ""], state: KVState) -> tuple[Float32[Array, " vocab"], KVState]:
        return self.prefill(token[None], state)

    def _forward(
        self, tokens: Int[Array, " seq"], state: KVState, length: Int[Array, ""] | int
    ) -> tuple[Float[Array, "seq embed"], KVState, Bool[Array, ""]]:
        """Tokens through the blocks: the last output, the state after `length` of them, and whether they fit."""
        positions, slots, mask = state.place(tokens.shape[0], length)
        x, caches, memory = embed_target(self, tokens, positions), [], self.projected_memory
        for block, cache, projected in zip(self.blocks, state.caches.value, memory.layers, strict=True):
            x, cache = block.extend(x, cache, slots, projected_memory=projected, mask=mask, memory_mask=memory.mask)
            caches.append(cache)
        return x, *state.advance(tuple(caches), length)

    def _logits(self, x: Float[Array, "seq embed"]) -> Float32[Array, "seq vocab"]:
        x = final_norm(self, x)
        return self.embedding.project(x) if self.head is None else self.head.accumulate(x)


def embed_target(model: Any, tokens: Int[Array, " seq"], positions: Int[Array, " seq"]) -> Float[Array, "seq embed"]:
    """What goes into the first block of a model's decoder or of a `TargetDecoder`, without dropout."""
    x = model.embedding(tokens)
    return x + model.position_embedding(positions).astype(x.dtype)


def final_norm(model: Any, x: Float[Array, "seq embed"]) -> Float[Array, "seq embed"]:
    """From the decoder's last block to the head, without dropout; a tied head needs smaller vectors."""
    x = x if model.decoder_norm is None else jax.vmap(model.decoder_norm)(x)
    return x * FRESH_LOGIT_STD if model.head is None else x


def check_source(size: int, lengths: Any, max_length: int) -> None:
    """Raises `ValueError` for sources of so many tokens that are too long, empty or misstated."""
    if not 1 <= size <= max_length:
        raise ValueError(f"source has {size} tokens, not 1 to max_length ({max_length})")
    if not isinstance(lengths, Tracer):  # traced, its value is not known yet
        for length in np.ravel(lengths):
            if not 0 <= length <= size:
                raise ValueError(f"source_length must be in 0 to {size}, the tokens of source, got {length}")
