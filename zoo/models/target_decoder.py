"""The decoder side of an `EncoderDecoder`, one token at a time: what `zoo.sampling` writes a target with."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jaxtyping import Bool, Float, Float32, Int, PyTree

from zoo.decoder import AbstractDecoder, PositionIndexed
from zoo.nn.attention import KVCache
from zoo.nn.checks import check_sizes
from zoo.nn.masks import cache_mask, causal_mask, padding_mask
from zoo.nn.transformer import CrossAttentionBlock


class Remembered(eqx.Module):
    """All that a decoder keeps of a source: keys and values in each layer, and which of them are real."""

    layers: tuple[KVCache, ...]
    mask: Bool[Array, "*batch 1 source"]


class TargetState(eqx.Module):
    """The target so far: keys and values in each layer, and how many tokens there are."""

    caches: PositionIndexed[tuple[KVCache, ...]]
    position: Int[Array, ""]


class TargetDecoder(AbstractDecoder[TargetState]):
    """The decoder of an `EncoderDecoder` that has read its source, made by `EncoderDecoder.decoder(source)`.

    The source is part of the decoder, not of the state, so that beams and samples do not copy it. Blocks are not
    stacked: slices of stacked weights and caches would be copied at every token.
    """

    shell: Any  # an `EncoderDecoder` without its encoder and blocks: embedding, positions, last norm and head
    blocks: tuple[CrossAttentionBlock, ...]
    source: Remembered
    vocab_size: int = eqx.field(static=True)
    max_length: int | None = eqx.field(static=True)

    def init_state(self, capacity: int) -> TargetState:
        check_sizes(capacity=capacity)
        if self.max_length is not None and capacity > self.max_length:
            raise ValueError(f"capacity ({capacity}) exceeds max_length ({self.max_length})")
        attention, dtype = self.blocks[0].attention, self.shell.embedding.weight.dtype
        cache = KVCache.empty(attention.num_kv_heads, capacity, attention.head_size, dtype)
        return TargetState(PositionIndexed((cache,) * len(self.blocks)), jnp.array(0, jnp.int32))

    def prefill(
        self, tokens: Int[Array, " seq"], state: TargetState, *, length: Int[Array, ""] | int | None = None
    ) -> tuple[Float[Array, " vocab"], TargetState]:
        length = tokens.shape[0] if length is None else length
        x, state, fits = self._take_in(tokens, state, length)
        last = jnp.take(x, jnp.atleast_1d(length) - 1, axis=0, mode="clip")
        return jnp.where(fits & (length >= 1), self._score(last)[0], jnp.nan), state

    def extend(self, tokens: Int[Array, " seq"], state: TargetState) -> tuple[Float[Array, "seq vocab"], TargetState]:
        x, state, fits = self._take_in(tokens, state, tokens.shape[0])
        return jnp.where(fits, self._score(x), jnp.nan), state

    def step(self, token: Int[Array, ""], state: TargetState) -> tuple[Float[Array, " vocab"], TargetState]:
        return self.prefill(token[None], state)

    def _take_in(
        self, tokens: Int[Array, " seq"], state: TargetState, length: Int[Array, ""] | int
    ) -> tuple[Float[Array, "seq embed"], TargetState, Bool[Array, ""]]:
        """Tokens through the blocks: what comes out, the state behind `length` of them, and whether they fitted."""
        capacity, offsets = state.caches.value[0].capacity, jnp.arange(tokens.shape[0])
        positions = state.position + offsets
        slots = jnp.where(offsets < length, positions, capacity)  # padding is meant for no slot
        x, caches, mask = self.shell.embed_target(tokens, positions), [], cache_mask(positions, capacity)
        for block, cache, remembered in zip(self.blocks, state.caches.value, self.source.layers, strict=True):
            x, cache = block.extend(x, cache, slots, remembered=remembered, mask=mask, memory_mask=self.source.mask)
            caches.append(cache)
        position = state.position + length
        return x, TargetState(PositionIndexed(tuple(caches)), jnp.minimum(position, capacity)), position <= capacity

    def _score(self, x: Float[Array, "seq embed"]) -> Float32[Array, "seq vocab"]:
        return self.shell.project(self.shell.finish(x))


def make_decoder(model: Any, sources: Any, lengths: Any) -> TargetDecoder:
    """A decoder of a model for one source, or for a batch of sources that share its weights."""
    model = eqx.nn.inference_mode(model)
    blocks, source = _read(model, sources, lengths)
    parts = lambda m: (m.source_embedding, m.encoder_stack, m.encoder_norm, m.decoder_stack)  # noqa: E731
    shell = eqx.tree_at(parts, model, (None,) * 4, is_leaf=lambda x: x is None)
    return TargetDecoder(
        shell=shell, blocks=blocks, source=source, vocab_size=model.vocab_size, max_length=model.max_length
    )


def check_source(size: int, lengths: Any, max_length: int) -> None:
    """Raises `ValueError` for sources of so many tokens that are too long, empty or misstated."""
    if not 1 <= size <= max_length:
        raise ValueError(f"source has {size} tokens, not 1 to max_length ({max_length})")
    if not isinstance(lengths, Tracer):  # traced, its value is not known yet
        for length in np.ravel(lengths):
            if not 0 <= length <= size:
                raise ValueError(f"source_length must be in 0 to {size}, the tokens of source, got {length}")


def make_decoders(model: Any, sources: Any, source_lengths: Any) -> tuple[TargetDecoder, PyTree]:
    """A decoder of a model for a batch of sources, and its `in_axes`: what it remembers of them has rows."""
    rows, size = sources.shape
    lengths = np.full(rows, size, np.int32) if source_lengths is None else source_lengths
    if lengths.shape != (rows,):
        raise ValueError(f"source_lengths must have one entry for each of {rows} sources, got {lengths.shape}")
    check_source(size, lengths, model.max_length)
    decoder = make_decoder(model, sources, lengths)
    no_axis = jax.tree.map(lambda _: None, decoder)
    return decoder, eqx.tree_at(lambda d: d.source, no_axis, 0, is_leaf=lambda x: x is None)


@eqx.filter_jit
def _read(model: Any, sources: Any, lengths: Any) -> tuple[tuple[CrossAttentionBlock, ...], Remembered]:
    """The decoder's blocks, and what they remember of one source or of each of a batch."""
    blocks = model.decoder_stack.unstack()

    def remember(source: Int[Array, " source"], length: Int[Array, ""]) -> Remembered:
        memory = model.encode(source, length)
        return Remembered(tuple(block.remember(memory) for block in blocks), padding_mask(length, source.shape[0]))

    each = jax.vmap(remember) if np.ndim(sources) > 1 else remember
    return blocks, each(jnp.asarray(sources, jnp.int32), jnp.asarray(lengths))


def cross_attention(
    model: Any, source: Int[Array, " source"], target_inputs: Int[Array, " target"]
) -> Float[Array, "layers heads target source"]:
    """How much each token of a target looks at each of its source, in every layer and head; for pictures.

    Args:
        model: an `EncoderDecoder`, in inference mode.
        source, target_inputs: as it takes them, without padding.
    """
    memory = model.encode(source)
    x, weights = model.embed_target(target_inputs, jnp.arange(target_inputs.shape[0])), []
    for block in model.decoder_stack.unstack():
        shared = {"memory": memory, "mask": causal_mask(target_inputs.shape[0])}
        weights.append(block.look(x, **shared))
        x = block(x, **shared)
    return jnp.stack(weights)
