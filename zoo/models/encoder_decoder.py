"""An encoder-decoder Transformer for translation and its like; its config is in `encoder_decoder_config`.

source -> embedding + positions -> encoder layers x (attention, feed-forward) -> memory
target inputs, memory -> embedding + positions -> decoder layers x (causal attention, cross-attention to the memory,
feed-forward) -> dropout -> head -> logits
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, PRNGKeyArray

from zoo.models.abstract_encoder_decoder import AbstractEncoderDecoder
from zoo.models.encoder_decoder_config import EncoderDecoderConfig
from zoo.models.target_decoder import (
    FRESH_LOGIT_STD,
    ProjectedMemory,
    TargetDecoder,
    embed_target,
)
from zoo.nn.blocks import make_blocks
from zoo.nn.dropout import Dropout
from zoo.nn.embedding import LearnedPositions, SinusoidalPositions, TokenEmbedding
from zoo.nn.linear import AbstractLinear, Linear
from zoo.nn.norm import make_norm
from zoo.nn.stack import Stack
from zoo.nn.transformer import CrossAttentionBlock, TransformerBlock


class EncoderDecoder(AbstractEncoderDecoder):
    """Maps a source and the target so far to logits: row i scores every token as the one after target token i.

    One table of tokens serves both sides unless the source has a vocabulary of its own. What varies between Keras's
    example, BART and Marian is in the config.

    References: Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762; Keras,
    `examples/nlp/neural_machine_translation_with_transformer.py`; Lewis et al., "BART", 2019, arXiv:1910.13461;
    Junczys-Dowmunt et al., "Marian", 2018, arXiv:1804.00344.
    Differs from Keras's: its padding masks never reach the attention when it is rewritten with Flax's layers,
    here they do; learned positions are initialised with sines and cosines.

    Example:
        >>> from zoo import EncoderDecoder, EncoderDecoderConfig, generate
        >>> config = EncoderDecoderConfig(vocab_size=32, embed_size=16, num_heads=4, mlp_size=64, max_length=10)
        >>> translator = eqx.filter_jit(EncoderDecoder)(config, key=jax.random.key(0))
        >>> source, start = jnp.array([5, 6, 7]), 1
        >>> eqx.filter_jit(translator)(source, jnp.array([start, 8]), key=jax.random.key(1)).shape
        (2, 32)
        >>> generate(eqx.filter_jit(translator.decoder)(source), [start], max_new_tokens=4).tokens.shape
        (4,)
        >>> sources, lengths = jnp.array([[5, 6, 7], [9, 9, 0]]), jnp.array([3, 2])
        >>> decoder, in_axes = eqx.filter_jit(translator.decoders)(sources, lengths)
        >>> generate(decoder, [[start], [start]], max_new_tokens=4, in_axes=in_axes).tokens.shape
        (2, 4)
    """

    embedding: TokenEmbedding  # of both sides unless the source has its own
    source_embedding: TokenEmbedding | None
    position_embedding: LearnedPositions | SinusoidalPositions  # of both sides, too
    source_position_embedding: LearnedPositions | None
    source_embedding_norm: eqx.nn.LayerNorm | eqx.nn.RMSNorm | None
    embedding_norm: eqx.nn.LayerNorm | eqx.nn.RMSNorm | None
    dropout: Dropout
    encoder_stack: Stack[TransformerBlock]
    encoder_norm: eqx.nn.LayerNorm | eqx.nn.RMSNorm | None
    decoder_stack: Stack[CrossAttentionBlock]
    decoder_norm: eqx.nn.LayerNorm | eqx.nn.RMSNorm | None
    head_dropout: Dropout
    head: AbstractLinear | None
    logit_bias: Float[Array, " vocab"] | None
    config: EncoderDecoderConfig = eqx.field(static=True)

    def __init__(self, config: EncoderDecoderConfig, *, key: PRNGKeyArray):
        """
        Args:
            config: sizes and choices.
            key: for the weights.
        """
        keys, size, tied = jax.random.split(key, 6), config.embed_size, config.tie_embeddings
        # A tied head wants small vectors, the first block those with entries of variance one.
        std = FRESH_LOGIT_STD / (math.sqrt(size) * config.logit_scale) if tied else 1.0
        scale = (math.sqrt(size) if tied else 1.0) if config.embed_scale is None else config.embed_scale
        self.embedding = TokenEmbedding(config.vocab_size, size, std=std, scale=scale, key=keys[0])
        self.source_embedding = self.source_position_embedding = None
        if config.source_vocab_size is not None:
            self.source_embedding = TokenEmbedding(
                config.source_vocab_size, size, std=1 / scale, scale=scale, key=keys[1]
            )
        if config.positions == "sinusoidal":
            self.position_embedding = SinusoidalPositions(size, config.position_layout)
        else:
            self.position_embedding = LearnedPositions(config.max_length, size, key=keys[2])
            if not config.shared_positions:
                self.source_position_embedding = LearnedPositions(config.max_length, size, key=keys[2])
        self.source_embedding_norm, self.embedding_norm = (
            make_norm("layer", size, epsilon=config.norm_epsilon) if config.embedding_norm else None for _ in range(2)
        )
        self.dropout, self.head_dropout = Dropout(config.dropout_p), Dropout(config.head_dropout_p)
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
        self.logit_bias = jnp.zeros(config.vocab_size) if tied and config.use_logit_bias else None
        self.config = config

    @property
    def logit_scale(self) -> float:
        return self.config.logit_scale if self.head is None else 1.0

    def encode(
        self,
        source: Int[Array, " source"],
        source_length: Int[Array, ""] | int | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "source {self.config.embed_size}"]:
        mask = self.source_mask(source, source_length)
        embed_key, stack_key = (None, None) if key is None else jax.random.split(key)
        embedding = self.embedding if self.source_embedding is None else self.source_embedding
        positions = self.source_position_embedding or self.position_embedding
        x = embedding(source)
        x = x + positions(jnp.arange(source.shape[0])).astype(x.dtype)
        x = jnp.where(mask[0, :, None], x, 0)  # even an id outside the vocabulary does no harm as padding
        x = x if self.source_embedding_norm is None else jax.vmap(self.source_embedding_norm)(x)
        x = self.encoder_stack(self.dropout(x, key=embed_key), mask=mask, key=stack_key)
        return x if self.encoder_norm is None else jax.vmap(self.encoder_norm)(x)

    def embed_target(
        self, target_inputs: Int[Array, " target"]
    ) -> tuple[Float[Array, "target {self.config.embed_size}"], None]:
        return embed_target(self, target_inputs, jnp.arange(target_inputs.shape[0])), None

    def target_decoder(
        self, blocks: tuple[CrossAttentionBlock, ...], projected_memory: ProjectedMemory
    ) -> TargetDecoder:
        return TargetDecoder(
            embedding=self.embedding, position_embedding=self.position_embedding, embedding_norm=self.embedding_norm,
            relative_bias=None, blocks=blocks, decoder_norm=self.decoder_norm, head=self.head,
            logit_bias=self.logit_bias, projected_memory=projected_memory, logit_scale=self.logit_scale,
            vocab_size=self.vocab_size, max_length=self.max_length, **self.config.generation_ids(),
        )  # fmt: skip
