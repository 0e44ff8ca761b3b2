"""An encoder-decoder Transformer for translation and its like, and its config.

source -> embedding + positions -> encoder layers x (attention, feed-forward) -> memory
target inputs, memory -> embedding + positions -> decoder layers x (causal attention, cross-attention to the memory,
feed-forward) -> dropout -> head -> logits
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Float32, Int, PRNGKeyArray, PyTree

from zoo.models.target_decoder import (
    FRESH_LOGIT_STD,
    ProjectedMemory,
    TargetDecoder,
    check_source,
    embed_target,
    final_norm,
)
from zoo.nn.checks import (
    check_choice,
    check_flags,
    check_ids,
    check_plain,
    check_positive,
    check_probability,
    check_sizes,
    head_sizes,
)
from zoo.nn.embedding import LearnedPositions, SinusoidalPositions, TokenEmbedding
from zoo.nn.feed_forward import ACTIVATIONS
from zoo.nn.linear import AbstractLinear, Linear
from zoo.nn.masks import causal_mask, padding_mask
from zoo.nn.stack import Stack
from zoo.nn.transformer import CrossAttentionBlock, TransformerBlock, make_blocks, make_norm


@dataclass(frozen=True, kw_only=True)
class EncoderDecoderConfig:
    """What an `EncoderDecoder` is made of. Plain JSON; the defaults are those of Keras's translation example.

    Raises:
        ValueError: a field out of its range, or two that do not fit.
    """

    vocab_size: int
    """Number of different target tokens, and source tokens unless these are counted apart."""
    embed_size: int = 256
    """Length of a token's vector."""
    num_layers: int = 1
    """Number of blocks of the encoder, and of the decoder unless that is given."""
    num_heads: int = 8
    """Heads of attention, a divisor of `embed_size`."""
    mlp_size: int = 2048
    """Width of the feed-forward layers."""
    max_length: int = 20
    """Most tokens of a source, and of a target."""
    num_decoder_layers: int | None = None
    """Number of blocks of the decoder; `num_layers` by default."""
    source_vocab_size: int | None = None
    """Number of different source tokens; the source then has an embedding of its own."""
    positions: Literal["learned", "sinusoidal"] = "learned"
    """One trained table for both sides, initialised with sines and cosines, or fixed sines and cosines."""
    pre_norm: bool = False
    """Whether norms stand before the blocks' parts, with one more after each stack."""
    activation: Literal["relu", "gelu", "gelu_tanh", "silu"] = "relu"
    """Of the feed-forward layers."""
    norm_epsilon: float = 1e-6
    """Added to variances."""
    tie_embeddings: bool = False
    """Whether the head shares the target embedding's weights; it then has no bias."""
    dropout_p: float = 0.0
    """Dropout probability for embeddings, attention weights and residual branches, in [0, 1)."""
    head_dropout_p: float = 0.5
    """Dropout probability for what goes into the head, in [0, 1)."""
    remat: bool = False
    """Whether training recomputes the blocks' activations in the backward pass to save memory."""

    def __post_init__(self):
        check_plain(self)
        check_sizes(
            vocab_size=self.vocab_size, embed_size=self.embed_size, num_layers=self.num_layers,
            num_heads=self.num_heads, mlp_size=self.mlp_size, max_length=self.max_length,
            num_decoder_layers=self.num_decoder_layers, source_vocab_size=self.source_vocab_size,
        )  # fmt: skip
        head_sizes(self.embed_size, self.num_heads)
        check_choice("positions", self.positions, ("learned", "sinusoidal"))
        check_choice("activation", self.activation, ACTIVATIONS)
        check_flags(pre_norm=self.pre_norm, tie_embeddings=self.tie_embeddings, remat=self.remat)
        check_positive(norm_epsilon=self.norm_epsilon)
        check_probability(dropout_p=self.dropout_p, head_dropout_p=self.head_dropout_p)


class EncoderDecoder(eqx.Module):
    """Maps a source and the target so far to logits: row i scores every token as the one after target token i.

    One table of tokens serves both sides unless the source has a vocabulary of its own. Source padding is masked in
    the encoder and in the cross-attention, so it changes nothing; neither does target padding before it.

    References: Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762; Keras,
    `examples/nlp/neural_machine_translation_with_transformer.py`.
    Differs from Keras's: its padding masks never reach the attention when it is rewritten with Flax's layers,
    here they do; learned positions are initialised with sines and cosines.

    Example:
        >>> from zoo import EncoderDecoder, EncoderDecoderConfig, generate
        >>> config = EncoderDecoderConfig(vocab_size=32, embed_size=16, num_heads=4, mlp_size=64, max_length=10)
        >>> translator = EncoderDecoder(config, key=jax.random.key(0))
        >>> source, start = jnp.array([5, 6, 7]), 1
        >>> translator(source, jnp.array([start, 8]), key=jax.random.key(1)).shape
        (2, 32)
        >>> generate(translator.decoder(source), [start], max_new_tokens=4).tokens.shape
        (4,)
        >>> decoder, in_axes = translator.decoders(jnp.array([[5, 6, 7], [9, 9, 0]]), jnp.array([3, 2]))
        >>> generate(decoder, [[start], [start]], max_new_tokens=4, in_axes=in_axes).tokens.shape
        (2, 4)
    """

    embedding: TokenEmbedding  # of both sides unless the source has its own
    source_embedding: TokenEmbedding | None
    position_embedding: LearnedPositions | SinusoidalPositions
    dropout: eqx.nn.Dropout
    encoder_stack: Stack[TransformerBlock]
    encoder_norm: eqx.nn.LayerNorm | eqx.nn.RMSNorm | None
    decoder_stack: Stack[CrossAttentionBlock]
    decoder_norm: eqx.nn.LayerNorm | eqx.nn.RMSNorm | None
    head_dropout: eqx.nn.Dropout
    head: AbstractLinear | None
    config: EncoderDecoderConfig = eqx.field(static=True)

    def __init__(self, config: EncoderDecoderConfig, *, key: PRNGKeyArray):
        """
        Args:
            config: sizes and choices.
            key: for the weights.
        """
        keys, size, tied = jax.random.split(key, 6), config.embed_size, config.tie_embeddings
        self.embedding = TokenEmbedding.of_unit_variance(config.vocab_size, size, tied=tied, key=keys[0])
        self.source_embedding = None
        if config.source_vocab_size is not None:
            self.source_embedding = TokenEmbedding.of_unit_variance(config.source_vocab_size, size, key=keys[1])
        self.position_embedding = (
            LearnedPositions(config.max_length, size, key=keys[2])
            if config.positions == "learned"
            else SinusoidalPositions(size)
        )
        self.dropout, self.head_dropout = eqx.nn.Dropout(config.dropout_p), eqx.nn.Dropout(config.head_dropout_p)
        encoder_layers, decoder_layers = config.num_layers, config.num_decoder_layers or config.num_layers
        options: Any = {
            "activation": config.activation, "pre_norm": config.pre_norm, "norm_epsilon": config.norm_epsilon,
            "dropout_p": config.dropout_p, "attention_dropout_p": config.dropout_p, "remat": config.remat,
        }  # fmt: skip
        sizes = size, config.num_heads, config.mlp_size
        # The variance of a pre-norm residual stream, to which all parts add, stays near one (GPT-2).
        encoder_scale, decoder_scale = (
            1.0 / math.sqrt(parts) if config.pre_norm else 1.0 for parts in (2 * encoder_layers, 3 * decoder_layers)
        )
        self.encoder_stack = make_blocks(
            TransformerBlock, encoder_layers, *sizes, out_scale=encoder_scale, **options, key=keys[3]
        )
        self.decoder_stack = make_blocks(
            CrossAttentionBlock, decoder_layers, *sizes, out_scale=decoder_scale, **options, key=keys[4]
        )
        self.encoder_norm, self.decoder_norm = (
            make_norm("layer", size, epsilon=config.norm_epsilon) if config.pre_norm else None for _ in range(2)
        )
        self.head = None if tied else Linear(size, config.vocab_size, scale=FRESH_LOGIT_STD, key=keys[5])
        self.config = config

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    @property
    def max_length(self) -> int:
        return self.config.max_length

    def encode(
        self,
        source: Int[Array, " source"],
        source_length: Int[Array, ""] | int | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "source {self.config.embed_size}"]:
        """The memory: a contextual vector for each source token. Arguments as in `__call__`."""
        check_ids("source", source)
        size = source.shape[0]
        length = size if source_length is None else source_length
        check_source(size, length, self.max_length)
        mask = padding_mask(length, size)
        embed_key, stack_key = (None, None) if key is None else jax.random.split(key)
        embedding = self.embedding if self.source_embedding is None else self.source_embedding
        x = embedding(source)
        x = x + self.position_embedding(jnp.arange(size)).astype(x.dtype)
        x = jnp.where(mask[0, :, None], x, 0)  # even an id outside the vocabulary does no harm as padding
        x = self.encoder_stack(self.dropout(x, key=embed_key), mask=mask, key=stack_key)
        return x if self.encoder_norm is None else jax.vmap(self.encoder_norm)(x)

    def hidden(
        self,
        source: Int[Array, " source"],
        target_inputs: Int[Array, " target"],
        *,
        source_length: Int[Array, ""] | int | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "target {self.config.embed_size}"]:
        """The vectors that the head projects to logits, after dropout. Arguments as in `__call__`."""
        check_ids("source", source)
        check_ids("target_inputs", target_inputs)
        (size,), (length,) = source.shape, target_inputs.shape
        if length > self.max_length:
            raise ValueError(f"target_inputs has {length} tokens, more than max_length ({self.max_length})")
        keys = (None,) * 4 if key is None else jax.random.split(key, 4)
        memory = self.encode(source, source_length, key=keys[0])
        x = embed_target(self, target_inputs, jnp.arange(length))
        x = self.decoder_stack(
            self.dropout(x, key=keys[1]),
            memory=memory,
            causal=True,
            memory_mask=padding_mask(size if source_length is None else source_length, size),
            key=keys[2],
        )
        return self.head_dropout(final_norm(self, x), key=keys[3])

    def project(
        self, hidden: Float[Array, "*shape {self.config.embed_size}"]
    ) -> Float32[Array, "*shape {self.vocab_size}"]:
        """Logits of hidden vectors, in float32 whatever the type of the weights."""
        return self.embedding.project(hidden) if self.head is None else self.head.accumulate(hidden)

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

    def head_weights(self) -> tuple[Float[Array, "vocab embed"], Float[Array, " vocab"] | None] | None:
        """Weight and bias of the head, tied or not, for a loss that never holds all logits.

        None where another module stands in the head's place (an adapter, say): only `project` knows what it does.
        """
        if self.head is None:
            return (self.embedding.weight, None) if type(self.embedding) is TokenEmbedding else None
        return (self.head.weight, self.head.bias) if isinstance(self.head, Linear) else None

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

    def cross_attention_weights(
        self, source: Int[Array, " source"], target_inputs: Int[Array, " target"]
    ) -> Float[Array, "layers heads target source"]:
        """The weights with which each target token attends to each source token, for pictures. Inference mode.

        Arguments as in `__call__`, without padding.
        """
        x = embed_target(self, target_inputs, jnp.arange(target_inputs.shape[0]))
        memory, mask = self.encode(source), causal_mask(target_inputs.shape[0])
        weights = []
        for block in self.decoder_stack.unstack():
            weights.append(block.cross_attention_weights(x, memory=memory, mask=mask))
            x = block(x, memory=memory, mask=mask)
        return jnp.stack(weights)


def _make_decoder(model: EncoderDecoder, sources: Any, lengths: Any) -> TargetDecoder:
    """A decoder of a model for one source, or for a batch of sources that share its weights."""
    model = eqx.nn.inference_mode(model)
    blocks, projected_memory = _read(model, sources, lengths)
    return TargetDecoder(
        embedding=model.embedding, position_embedding=model.position_embedding, blocks=blocks,
        decoder_norm=model.decoder_norm, head=model.head, projected_memory=projected_memory,
        vocab_size=model.vocab_size, max_length=model.max_length,
    )  # fmt: skip


@eqx.filter_jit
def _read(
    model: EncoderDecoder, sources: Any, lengths: Any
) -> tuple[tuple[CrossAttentionBlock, ...], ProjectedMemory]:
    """The decoder's blocks, and the memory of one source or of each of a batch, projected for them."""
    blocks = model.decoder_stack.unstack()

    def project_memory(source: Int[Array, " source"], length: Int[Array, ""]) -> ProjectedMemory:
        memory = model.encode(source, length)
        layers = tuple(block.project_memory(memory) for block in blocks)
        return ProjectedMemory(layers, padding_mask(length, source.shape[0]))

    each = jax.vmap(project_memory) if np.ndim(sources) > 1 else project_memory
    return blocks, each(jnp.asarray(sources, jnp.int32), jnp.asarray(lengths))
