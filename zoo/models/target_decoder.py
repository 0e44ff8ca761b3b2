"""The decoder side of an encoder-decoder, one token at a time: what `zoo.sampling` writes a target with."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Float32, Int

from zoo.models.kv_state import AbstractKVDecoder, KVState
from zoo.nn.embedding import LearnedPositions, SinusoidalPositions, TokenEmbedding
from zoo.nn.kv_cache import KVCache
from zoo.nn.linear import AbstractLinear
from zoo.nn.relative_bias import RelativeBias
from zoo.nn.transformer import CrossAttentionBlock

# Logits of a fresh model have a variance of 0.04, so its loss is ln(vocab_size) to a few hundredths.
FRESH_LOGIT_STD = 0.2


class ProjectedMemory(eqx.Module):
    """All that a decoder keeps of a source: keys and values in each layer, and which of them are real."""

    layers: tuple[KVCache, ...]
    mask: Bool[Array, "*batch 1 source"]


class TargetDecoder(AbstractKVDecoder):
    """The decoder of a model that has read its source, made by `AbstractEncoderDecoder.decoder(source)`.

    The source is part of the decoder, not of the state, so that beams and samples do not copy it.
    """

    embedding: TokenEmbedding
    position_embedding: LearnedPositions | SinusoidalPositions | None
    embedding_norm: eqx.nn.LayerNorm | eqx.nn.RMSNorm | None
    relative_bias: RelativeBias | None
    blocks: tuple[CrossAttentionBlock, ...]
    decoder_norm: eqx.nn.LayerNorm | eqx.nn.RMSNorm | None
    head: AbstractLinear | None
    logit_bias: Float[Array, " vocab"] | None  # of a tied head
    projected_memory: ProjectedMemory
    logit_scale: float = eqx.field(static=True)
    vocab_size: int = eqx.field(static=True)
    max_length: int | None = eqx.field(static=True)

    def forward(
        self, tokens: Int[Array, " seq"], state: KVState, length: Int[Array, ""] | int
    ) -> tuple[Float[Array, "seq embed"], KVState, Bool[Array, ""]]:
        positions, slots, mask = state.place(tokens.shape[0], length)
        x, caches, memory = embed_target(self, tokens, positions), [], self.projected_memory
        bias = None if self.relative_bias is None else self.relative_bias(positions, jnp.arange(state.capacity))
        for block, cache, projected in zip(self.blocks, state.caches.value, memory.layers, strict=True):
            x, cache = block.extend(
                x, cache, slots, projected_memory=projected, mask=mask, memory_mask=memory.mask, bias=bias
            )
            caches.append(cache)
        return x, *state.advance(tuple(caches), length)

    def logits(self, x: Float[Array, " embed"]) -> Float32[Array, " vocab"]:
        return project(self, final_norm(self, x))


# What a `TargetDecoder` has in common with the model that it is of: both have the parts that these functions use.


def embed_target(model: Any, tokens: Int[Array, " seq"], positions: Int[Array, " seq"]) -> Float[Array, "seq embed"]:
    """What goes into the first block, without dropout."""
    x = model.embedding(tokens)
    if model.position_embedding is not None:
        x = x + model.position_embedding(positions).astype(x.dtype)
    return x if model.embedding_norm is None else jax.vmap(model.embedding_norm)(x)


def final_norm(model: Any, x: Float[Array, " embed"]) -> Float[Array, " embed"]:
    """From the last block to the head, without dropout."""
    x = x if model.decoder_norm is None else model.decoder_norm(x)
    return x * model.logit_scale if model.logit_scale != 1.0 else x


def project(model: Any, hidden: Float[Array, "*shape embed"]) -> Float32[Array, "*shape vocab"]:
    """Logits by a head, tied or not."""
    if model.head is not None:
        return model.head.accumulate(hidden)
    logits = model.embedding.project(hidden)
    if model.logit_bias is None:
        return logits
    return logits + model.logit_bias.astype(jnp.float32).reshape((1,) * (logits.ndim - 1) + (-1,))
