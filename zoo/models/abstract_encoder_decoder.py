"""What all models with an encoder and a decoder have in common: how a source becomes the decoder of its target."""

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jaxtyping import Bool, Float, Float32, Int, PRNGKeyArray, PyTree

from zoo.models.target_decoder import ProjectedMemory, TargetDecoder, final_norm, project
from zoo.nn.checks import check_ids
from zoo.nn.dropout import Dropout
from zoo.nn.embedding import TokenEmbedding
from zoo.nn.linear import AbstractLinear, Linear
from zoo.nn.masks import causal_mask, padding_mask
from zoo.nn.stack import Stack
from zoo.nn.transformer import CrossAttentionBlock


class AbstractEncoderDecoder(eqx.Module):
    """Maps a source and the target so far to logits: row i scores every token as the one after target token i.

    Source padding is masked in the encoder and in the cross-attention, so it changes nothing; neither does target
    padding before it. A model says how it encodes a source, how it embeds a target, and of what parts its
    `TargetDecoder` is made.
    """

    embedding: eqx.AbstractVar[TokenEmbedding]
    dropout: eqx.AbstractVar[Dropout]
    head_dropout: eqx.AbstractVar[Dropout]
    decoder_stack: eqx.AbstractVar[Stack[CrossAttentionBlock]]
    head: eqx.AbstractVar[AbstractLinear | None]
    logit_bias: eqx.AbstractVar[Float[Array, " vocab"] | None]
    config: eqx.AbstractVar[Any]

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    @property
    def max_length(self) -> int | None:
        """Most tokens of a source, and of a target; None where there is no limit."""
        return getattr(self.config, "max_length", None)

    @abstractmethod
    def encode(
        self,
        source: Int[Array, " source"],
        source_length: Int[Array, ""] | int | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "source {self.config.embed_size}"]:
        """The memory: a contextual vector for each source token. Arguments as in `__call__`."""

    @abstractmethod
    def embed_target(
        self, target_inputs: Int[Array, " target"]
    ) -> tuple[Float[Array, "target {self.config.embed_size}"], Float[Array, "heads target target"] | None]:
        """What goes into the decoder, before dropout, and a bias for the scores of its self-attention."""

    @abstractmethod
    def target_decoder(
        self, blocks: tuple[CrossAttentionBlock, ...], projected_memory: ProjectedMemory
    ) -> TargetDecoder:
        """The decoder whose blocks have read a source: it shares all else with the model."""

    def source_mask(
        self, source: Int[Array, " source"], source_length: Int[Array, ""] | int | None
    ) -> Bool[Array, "1 source"]:
        """Which tokens of a source are real. Raises `ValueError` unless they are ids of one that is not too long."""
        check_ids("source", source)
        (size,) = source.shape
        length = size if source_length is None else source_length
        check_source(size, length, self.max_length)
        return padding_mask(length, size)

    def hidden(
        self,
        source: Int[Array, " source"],
        target_inputs: Int[Array, " target"],
        *,
        source_length: Int[Array, ""] | int | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "target {self.config.embed_size}"]:
        """The vectors that the head projects to logits, after dropout. Arguments as in `__call__`."""
        check_ids("target_inputs", target_inputs, self.max_length)
        keys = (None,) * 4 if key is None else jax.random.split(key, 4)
        memory = self.encode(source, source_length, key=keys[0])
        x, bias = self.embed_target(target_inputs)
        x = self.decoder_stack(
            self.dropout(x, key=keys[1]),
            memory=memory,
            causal=True,
            bias=bias,
            memory_mask=self.source_mask(source, source_length),
            key=keys[2],
        )
        return self.head_dropout(jax.vmap(lambda x: final_norm(self, x))(x), key=keys[3])

    def cross_attention_weights(
        self, source: Int[Array, " source"], target_inputs: Int[Array, " target"]
    ) -> Float[Array, "layers heads target source"]:
        """The weights with which each target token attends to each source token, for pictures. Without dropout.

        Arguments as in `__call__`, without padding.
        """
        check_ids("target_inputs", target_inputs, self.max_length)
        model = eqx.nn.inference_mode(self)
        x, bias = model.embed_target(target_inputs)
        shared: Any = {"memory": model.encode(source), "mask": causal_mask(target_inputs.shape[0]), "bias": bias}
        weights = []
        for block in model.decoder_stack.unstack():
            weights.append(block.cross_attention_weights(x, **shared))
            x = block(x, **shared)
        return jnp.stack(weights)

    def project(
        self, hidden: Float[Array, "*shape {self.config.embed_size}"]
    ) -> Float32[Array, "*shape {self.vocab_size}"]:
        """Logits of hidden vectors, in float32 whatever the type of the weights."""
        return project(self, hidden)

    def head_weights(self) -> tuple[Float[Array, "vocab embed"], Float[Array, " vocab"] | None] | None:
        """Weight and bias of the head, tied or not, for a loss that never holds all logits.

        None where another module stands in the head's place (an adapter, say): only `project` knows what it does.
        """
        if self.head is None:
            return (self.embedding.weight, self.logit_bias) if type(self.embedding) is TokenEmbedding else None
        return (self.head.weight, self.head.bias) if isinstance(self.head, Linear) else None

    def __call__(
        self,
        source: Int[Array, " source"],
        target_inputs: Int[Array, " target"],
        *,
        source_length: Int[Array, ""] | int | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float32[Array, "target {self.vocab_size}"]:
        """
        Args:
            source: ids of the source, 1 to `max_length` of them, padded on the right; those outside the vocabulary
                give NaN.
            target_inputs: ids of the target, at most `max_length`, a start id first; others give NaN.
            source_length: how many source tokens are real; all by default. With 0 there is nothing to attend to.
            key: for dropout, needed in training.

        Returns:
            Logits; row i scores the token that follows target token i.

        Raises:
            ValueError: a sequence that is too long, no source, or a known `source_length` out of range.
        """
        return self.project(self.hidden(source, target_inputs, source_length=source_length, key=key))

    def decoder(
        self,
        source: Int[Array | np.ndarray, " source"],
        source_length: Int[Array | np.ndarray, ""] | np.integer | int | None = None,
    ) -> TargetDecoder:
        """Writes the target of one source, one token at a time and without dropout: for `zoo.sampling`.

        The encoder runs here, once, compiled anew for each length of `source`, so pad to a few lengths. Arguments
        and errors as in `__call__`.
        """
        length = source.shape[0] if source_length is None else source_length
        check_source(source.shape[0], length, self.max_length)
        return _make_decoder(self, source, length if isinstance(length, Array) else np.int32(length))

    def decoders(
        self,
        sources: Int[Array | np.ndarray, "batch source"],
        source_lengths: Int[Array | np.ndarray, " batch"] | None = None,
    ) -> tuple[TargetDecoder, PyTree]:
        """A decoder for a batch of sources, and the `in_axes` that `generate` and its like take with it.

        The weights are there once; only the projected memories have a leading axis of rows. Arguments and errors as
        in `decoder`, for each row.
        """
        rows, size = sources.shape
        lengths = np.full(rows, size, np.int32) if source_lengths is None else source_lengths
        if lengths.shape != (rows,):
            raise ValueError(f"source_lengths must have one entry for each of {rows} sources, got {lengths.shape}")
        check_source(size, lengths, self.max_length)
        decoder = _make_decoder(self, sources, lengths)
        no_axis = jax.tree.map(lambda _: None, decoder)
        return decoder, eqx.tree_at(lambda d: d.projected_memory, no_axis, 0, is_leaf=lambda x: x is None)


def check_source(size: int, lengths: Any, max_length: int | None) -> None:
    """Raises `ValueError` for sources of so many tokens that are too long, empty or misstated."""
    if size < 1 or (max_length is not None and size > max_length):
        most = "or more" if max_length is None else f"to max_length ({max_length})"
        raise ValueError(f"source has {size} tokens, not 1 {most}")
    if not isinstance(lengths, Tracer):  # traced, its value is not known yet
        for length in np.ravel(lengths):
            if not 0 <= length <= size:
                raise ValueError(f"source_length must be in 0 to {size}, the tokens of source, got {length}")


def _make_decoder(model: AbstractEncoderDecoder, sources: Any, lengths: Any) -> TargetDecoder:
    """A decoder of a model for one source, or for a batch of sources that share its weights."""
    model = eqx.nn.inference_mode(model)
    return model.target_decoder(*_read(model, sources, lengths))


@eqx.filter_jit
def _read(
    model: AbstractEncoderDecoder, sources: Any, lengths: Any
) -> tuple[tuple[CrossAttentionBlock, ...], ProjectedMemory]:
    """The decoder's blocks, and the memory of one source or of each of a batch, projected for them."""
    blocks = model.decoder_stack.unstack()

    def project_memory(source: Int[Array, " source"], length: Int[Array, ""]) -> ProjectedMemory:
        memory = model.encode(source, length)
        layers = tuple(block.project_memory(memory) for block in blocks)
        return ProjectedMemory(layers, padding_mask(length, source.shape[0]))

    each = jax.vmap(project_memory) if np.ndim(sources) > 1 else project_memory
    return blocks, each(jnp.asarray(sources, jnp.int32), jnp.asarray(lengths))
