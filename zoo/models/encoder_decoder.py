"""An encoder-decoder Transformer for translation and its like, and its decoder.

source -> embedding + positions -> encoder layers x (attention, feed-forward) -> memory
target inputs, memory -> embedding + positions -> decoder layers x (causal attention, attention to the memory,
feed-forward) -> dropout -> head -> logits
"""

import math
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Float32, Int, PRNGKeyArray, PyTree

from zoo.models.target_decoder import TargetDecoder, check_source, make_decoder, make_decoders
from zoo.nn.attention import MultiHeadAttention
from zoo.nn.checks import check_choice, check_probability, check_sizes
from zoo.nn.embedding import LearnedPositions, SinusoidalPositions, TokenEmbedding
from zoo.nn.feed_forward import FeedForward
from zoo.nn.linear import Linear
from zoo.nn.masks import causal_mask, padding_mask
from zoo.nn.stack import Stack
from zoo.nn.transformer import CrossAttentionBlock, TransformerBlock, make_norm

# Logits of a fresh model have a variance of 0.04, so its loss is ln(vocab_size) to a few hundredths.
FRESH_LOGIT_STD = 0.2


class EncoderDecoder(eqx.Module):
    """Maps a source and the target so far to logits: row i scores every token as the one after target token i.

    By default the sizes of Keras's translation example: one layer on each side, post-norm, relu, dropout before
    the head alone, one table of tokens and one of positions for both sides, a head of its own. Source padding is
    masked in the encoder and in attention to it, so it changes nothing; neither does target padding before it.

    References: Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762; Keras,
    `examples/nlp/neural_machine_translation_with_transformer.py`.
    Differs from Keras's: its padding masks never reach the attention when it is rewritten with Flax's layers,
    here they do; learned positions start as sines and cosines.

    Example:
        >>> from zoo import EncoderDecoder, generate
        >>> translator = EncoderDecoder(32, 16, 2, 4, 64, 10, key=jax.random.key(0))
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
    head: Linear | None

    vocab_size: int = eqx.field(static=True)
    embed_size: int = eqx.field(static=True)
    num_layers: int = eqx.field(static=True)
    num_heads: int = eqx.field(static=True)
    mlp_size: int = eqx.field(static=True)
    max_length: int = eqx.field(static=True)
    num_decoder_layers: int | None = eqx.field(static=True)
    source_vocab_size: int | None = eqx.field(static=True)
    positions: Literal["learned", "sinusoidal"] = eqx.field(static=True)
    pre_norm: bool = eqx.field(static=True)
    activation: str = eqx.field(static=True)
    norm_epsilon: float = eqx.field(static=True)
    tie_embeddings: bool = eqx.field(static=True)
    dropout_p: float = eqx.field(static=True)
    head_dropout_p: float = eqx.field(static=True)
    remat: bool = eqx.field(static=True)

    def __init__(
        self,
        vocab_size: int,
        embed_size: int = 256,
        num_layers: int = 1,
        num_heads: int = 8,
        mlp_size: int = 2048,
        max_length: int = 20,
        *,
        num_decoder_layers: int | None = None,
        source_vocab_size: int | None = None,
        positions: Literal["learned", "sinusoidal"] = "learned",
        pre_norm: bool = False,
        activation: str = "relu",
        norm_epsilon: float = 1e-6,
        tie_embeddings: bool = False,
        dropout_p: float = 0.0,
        head_dropout_p: float = 0.5,
        remat: bool = False,
        key: PRNGKeyArray,
    ):
        """
        Args:
            vocab_size: number of different target tokens, and source tokens unless these are counted apart.
            embed_size: length of a token's vector.
            num_layers: number of blocks of the encoder, and of the decoder unless that is given.
            num_heads: heads of attention, a divisor of `embed_size`.
            mlp_size: width of the feed-forward layers.
            max_length: most tokens of a source, and of a target.
            num_decoder_layers: number of blocks of the decoder.
            source_vocab_size: number of different source tokens; the source then has an embedding of its own.
            positions: "learned" (one table for both sides, sines and cosines before training) or "sinusoidal".
            pre_norm: whether norms stand before the blocks' parts, with one more behind each stack.
            activation: "relu", "gelu", "gelu_tanh" or "silu".
            norm_epsilon: added to variances.
            tie_embeddings: whether the head shares the target embedding's weights; it then has no bias.
            dropout_p: of embeddings, attention weights and what blocks add, in [0, 1).
            head_dropout_p: of what goes into the head, in [0, 1).
            remat: whether training computes blocks again in the backward pass to save memory.
            key: for the weights.

        Raises:
            ValueError: an argument out of its range, or two that do not fit.
        """
        check_sizes(
            vocab_size=vocab_size, embed_size=embed_size, num_layers=num_layers, num_heads=num_heads,
            mlp_size=mlp_size, max_length=max_length, num_decoder_layers=num_decoder_layers,
            source_vocab_size=source_vocab_size,
        )  # fmt: skip
        check_choice("positions", positions, ("learned", "sinusoidal"))
        check_probability("dropout_p", dropout_p)
        check_probability("head_dropout_p", head_dropout_p)
        self.vocab_size, self.embed_size, self.num_layers = vocab_size, embed_size, num_layers
        self.num_heads, self.mlp_size, self.max_length = num_heads, mlp_size, max_length
        self.num_decoder_layers, self.source_vocab_size = num_decoder_layers, source_vocab_size
        self.positions, self.pre_norm, self.activation = positions, pre_norm, activation
        self.norm_epsilon, self.tie_embeddings = norm_epsilon, tie_embeddings
        self.dropout_p, self.head_dropout_p, self.remat = dropout_p, head_dropout_p, remat

        keys = jax.random.split(key, 6)
        self.embedding = TokenEmbedding.of_unit_variance(vocab_size, embed_size, tied=tie_embeddings, key=keys[0])
        self.source_embedding = None
        if source_vocab_size is not None:
            self.source_embedding = TokenEmbedding.of_unit_variance(source_vocab_size, embed_size, key=keys[1])
        self.position_embedding = (
            LearnedPositions(max_length, embed_size, key=keys[2])
            if positions == "learned"
            else SinusoidalPositions(embed_size)
        )
        self.dropout, self.head_dropout = eqx.nn.Dropout(dropout_p), eqx.nn.Dropout(head_dropout_p)

        decoder_layers = num_layers if num_decoder_layers is None else num_decoder_layers
        # What all parts add to a pre-norm residual stream keeps its variance near one (GPT-2).
        encoder_scale, decoder_scale = (
            1.0 / math.sqrt(parts) if pre_norm else 1.0 for parts in (2 * num_layers, 3 * decoder_layers)
        )
        options: Any = {
            "embed_size": embed_size, "pre_norm": pre_norm, "norm_epsilon": norm_epsilon, "dropout_p": dropout_p
        }  # fmt: skip

        def make_attention(scale: float, key: PRNGKeyArray) -> MultiHeadAttention:
            return MultiHeadAttention(embed_size, num_heads, out_scale=scale, dropout_p=dropout_p, key=key)

        def make_mlp(scale: float, key: PRNGKeyArray) -> FeedForward:
            return FeedForward(embed_size, mlp_size, activation=activation, out_scale=scale, key=key)

        def make_encoder_block(key: PRNGKeyArray) -> TransformerBlock:
            keys, scale = jax.random.split(key), encoder_scale
            return TransformerBlock(make_attention(scale, keys[0]), make_mlp(scale, keys[1]), **options)

        def make_decoder_block(key: PRNGKeyArray) -> CrossAttentionBlock:
            keys, scale = jax.random.split(key, 3), decoder_scale
            attention, cross_attention = (make_attention(scale, key) for key in keys[:2])
            return CrossAttentionBlock(attention, cross_attention, make_mlp(scale, keys[2]), **options)

        self.encoder_stack = Stack.make(make_encoder_block, num_layers, remat=remat, key=keys[3])
        self.decoder_stack = Stack.make(make_decoder_block, decoder_layers, remat=remat, key=keys[4])
        self.encoder_norm, self.decoder_norm = (
            make_norm("layer", embed_size, epsilon=norm_epsilon) if pre_norm else None for _ in range(2)
        )
        self.head = None if tie_embeddings else Linear(embed_size, vocab_size, scale=FRESH_LOGIT_STD, key=keys[5])

    def encode(
        self,
        source: Int[Array, " source"],
        source_length: Int[Array, ""] | int | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "source {self.embed_size}"]:
        """The memory: a vector for each source token, in the light of the others. Arguments as in `__call__`."""
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
    ) -> Float[Array, "target {self.embed_size}"]:
        """The vectors that the head projects to logits, after dropout. Arguments as in `__call__`."""
        (size,), (length,) = source.shape, target_inputs.shape
        if length > self.max_length:
            raise ValueError(f"target_inputs has {length} tokens, more than max_length ({self.max_length})")
        keys = (None,) * 4 if key is None else jax.random.split(key, 4)
        memory = self.encode(source, source_length, key=keys[0])
        x = self.embed_target(target_inputs, jnp.arange(length))
        x = self.decoder_stack(
            self.dropout(x, key=keys[1]),
            memory=memory,
            mask=causal_mask(length),
            memory_mask=padding_mask(size if source_length is None else source_length, size),
            key=keys[2],
        )
        return self.head_dropout(self.finish(x), key=keys[3])

    def project(self, hidden: Float[Array, "*shape {self.embed_size}"]) -> Float32[Array, "*shape {self.vocab_size}"]:
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

    def head_weights(self) -> tuple[Float[Array, "vocab embed"], Float[Array, " vocab"] | None]:
        """Weight and bias of the head, tied or not, for a loss that never holds all logits."""
        return (self.embedding.weight, None) if self.head is None else (self.head.weight, self.head.bias)

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
        return make_decoder(self, source, length if isinstance(length, Array) else np.int32(length))

    def decoders(
        self,
        sources: Int[Array | np.ndarray, "batch source"],
        source_lengths: Int[Array | np.ndarray, " batch"] | None = None,
    ) -> tuple[TargetDecoder, PyTree]:
        """A decoder for a batch of sources, and the `in_axes` that `generate` and its like take with it.

        The weights are there once; only what was remembered of the sources has a leading axis of rows. Arguments
        and errors as in `decoder`, for each row.
        """
        return make_decoders(self, sources, source_lengths)

    def embed_target(
        self, tokens: Int[Array, " seq"], positions: Int[Array, " seq"]
    ) -> Float[Array, "seq {self.embed_size}"]:
        """What goes into the decoder's first block, without dropout."""
        x = self.embedding(tokens)
        return x + self.position_embedding(positions).astype(x.dtype)

    def finish(self, x: Float[Array, "seq {self.embed_size}"]) -> Float[Array, "seq {self.embed_size}"]:
        """From the decoder's last block to the head, without dropout."""
        x = x if self.decoder_norm is None else jax.vmap(self.decoder_norm)(x)
        return x * FRESH_LOGIT_STD if self.tie_embeddings else x
