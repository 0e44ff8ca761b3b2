"""T5, an encoder-decoder that knows positions only by their distances, and its config.

source -> embedding -> encoder layers x (attention + bias of distances, feed-forward) -> norm -> memory
target inputs, memory -> embedding -> decoder layers x (causal attention + bias of distances, cross-attention to the
memory, feed-forward) -> norm -> head -> logits
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, PRNGKeyArray

from zoo.decoder import GeneratorConfig
from zoo.models.abstract_encoder_decoder import AbstractEncoderDecoder
from zoo.models.target_decoder import FRESH_LOGIT_STD, ProjectedMemory, TargetDecoder
from zoo.nn.blocks import make_blocks
from zoo.nn.checks import (
    check_buckets,
    check_choice,
    check_flags,
    check_plain,
    check_positive,
    check_probability,
    check_sizes,
    head_sizes,
)
from zoo.nn.dropout import Dropout
from zoo.nn.embedding import TokenEmbedding
from zoo.nn.feed_forward import ACTIVATIONS
from zoo.nn.linear import AbstractLinear, Linear
from zoo.nn.norm import make_norm
from zoo.nn.relative_bias import RelativeBias
from zoo.nn.stack import Stack
from zoo.nn.transformer import CrossAttentionBlock, TransformerBlock


@dataclass(frozen=True, kw_only=True)
class T5Config(GeneratorConfig):
    """What a `T5` is made of. Plain JSON; the defaults are those of the first T5.

    Raises:
        ValueError: a field out of its range, or two that do not fit.

    Example:
        >>> T5Config.flan().activation
        'gelu_tanh'
    """

    vocab_size: int
    """Number of different tokens, of the source and of the target."""
    embed_size: int
    """Length of a token's vector."""
    num_layers: int
    """Number of blocks of the encoder, and of the decoder unless that is given."""
    num_heads: int
    """Heads of attention."""
    mlp_size: int
    """Width of the feed-forward layers."""
    head_size: int = 64
    """Length of a head's vectors, whatever `embed_size` is."""
    num_decoder_layers: int | None = None
    """Number of blocks of the decoder; `num_layers` by default."""
    num_buckets: int = 32
    """Number of ranges of distances that are told apart, a multiple of 4."""
    max_distance: int = 128
    """Distance from which on all count as the same."""
    activation: Literal["relu", "gelu", "gelu_tanh", "silu"] = "relu"
    """Of the feed-forward layers."""
    gated: bool = False
    """Whether the feed-forward layers are gated (T5 1.1, Flan-T5)."""
    tie_embeddings: bool = True
    """Whether the head shares the embedding's weights."""
    scale_hidden: bool = True
    """Whether what goes into the head is divided by the square root of `embed_size` (the first T5)."""
    norm_epsilon: float = 1e-6
    """Added to mean squares."""
    dropout_p: float = 0.1
    """Dropout probability for embeddings, attention weights, residual branches and outputs of stacks, in [0, 1)."""
    remat: bool = False
    """Whether training recomputes the blocks' activations in the backward pass to save memory."""

    def __post_init__(self):
        check_plain(self)
        check_sizes(
            vocab_size=self.vocab_size, embed_size=self.embed_size, num_layers=self.num_layers,
            num_heads=self.num_heads, mlp_size=self.mlp_size, head_size=self.head_size,
            num_decoder_layers=self.num_decoder_layers, num_buckets=self.num_buckets, max_distance=self.max_distance,
        )  # fmt: skip
        head_sizes(self.embed_size, self.num_heads, head_size=self.head_size)
        check_choice("activation", self.activation, ACTIVATIONS)
        check_flags(
            gated=self.gated, tie_embeddings=self.tie_embeddings, scale_hidden=self.scale_hidden, remat=self.remat
        )
        check_positive(norm_epsilon=self.norm_epsilon)
        check_probability(dropout_p=self.dropout_p)
        self.check_generation_ids(self.vocab_size)
        for bidirectional in (True, False):
            check_buckets(self.num_buckets, self.max_distance, bidirectional=bidirectional)

    @classmethod
    def t5(cls, **changes: Any) -> "T5Config":
        """The first T5, by default the small one, of 60 M parameters."""
        sizes = {"vocab_size": 32_128, "embed_size": 512, "num_layers": 6, "num_heads": 8, "mlp_size": 2048}
        return cls(**{**sizes, **changes})

    @classmethod
    def flan(cls, **changes: Any) -> "T5Config":
        """Flan-T5 and T5 1.1, by default the small ones, of 77 M parameters."""
        sizes = {"vocab_size": 32_128, "embed_size": 512, "num_layers": 8, "num_heads": 6, "mlp_size": 1024}
        choices = {"activation": "gelu_tanh", "gated": True, "tie_embeddings": False, "scale_hidden": False}
        return cls(**{**sizes, **choices, **changes})


class T5(AbstractEncoderDecoder):
    """Maps a source and the target so far to logits: row i scores every token as the one after target token i.

    Pre-norm blocks with RMSNorm and without any bias but that of distances, one table for all layers of the encoder
    and one for those of the decoder. The scores of attention are not scaled, and a head's size is free. One table of
    tokens serves both sides, and any length will do.

    References: Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer",
    2019, arXiv:1910.10683; Chung et al., "Scaling Instruction-Finetuned Language Models", 2022, arXiv:2210.11416.
    Differs from the original: no dropout between the two feed-forward layers.

    Example:
        >>> from zoo import T5, T5Config, generate
        >>> config = T5Config.t5(vocab_size=32, embed_size=16, num_layers=2, num_heads=4, head_size=8, mlp_size=64)
        >>> t5 = eqx.filter_jit(T5)(config, key=jax.random.key(0))
        >>> source, start = jnp.array([5, 6, 7, 1]), 0
        >>> eqx.filter_jit(eqx.nn.inference_mode(t5))(source, jnp.array([start, 8])).shape
        (2, 32)
        >>> generate(eqx.filter_jit(t5.decoder)(source), [start], max_new_tokens=4).tokens.shape
        (4,)
    """

    embedding: TokenEmbedding
    dropout: Dropout
    head_dropout: Dropout
    encoder_bias: RelativeBias
    encoder_stack: Stack[TransformerBlock]
    encoder_norm: eqx.nn.LayerNorm | eqx.nn.RMSNorm
    decoder_bias: RelativeBias
    decoder_stack: Stack[CrossAttentionBlock]
    decoder_norm: eqx.nn.LayerNorm | eqx.nn.RMSNorm
    head: AbstractLinear | None
    logit_bias: Float[Array, " vocab"] | None  # never one, so far
    config: T5Config = eqx.field(static=True)

    def __init__(self, config: T5Config, *, key: PRNGKeyArray):
        """
        Args:
            config: sizes and choices.
            key: for the weights.
        """
        keys, size, tied = jax.random.split(key, 6), config.embed_size, config.tie_embeddings
        self.config = config
        std = FRESH_LOGIT_STD / (math.sqrt(size) * self.logit_scale) if tied else 1.0
        self.embedding = TokenEmbedding(config.vocab_size, size, std=std, key=keys[0])
        self.dropout = self.head_dropout = Dropout(config.dropout_p)
        self.encoder_bias, self.decoder_bias = (
            RelativeBias(
                config.num_heads, config.num_buckets, config.max_distance, bidirectional=bidirectional, key=bias_key
            )
            for bidirectional, bias_key in ((True, keys[1]), (False, keys[2]))
        )
        options: Any = {
            "head_size": config.head_size, "attention_scale": 1.0, "activation": config.activation,
            "gated": config.gated, "norm": "rms", "norm_epsilon": config.norm_epsilon, "use_bias": False,
            "dropout_p": config.dropout_p, "attention_dropout_p": config.dropout_p, "remat": config.remat,
        }  # fmt: skip
        sizes = size, config.num_heads, config.mlp_size
        layers, decoder_layers = config.num_layers, config.num_decoder_layers or config.num_layers
        self.encoder_stack = make_blocks(
            TransformerBlock, layers, *sizes, out_scale=(2 * layers) ** -0.5, **options, key=keys[3]
        )
        self.decoder_stack = make_blocks(
            CrossAttentionBlock,
            decoder_layers,
            *sizes,
            out_scale=(3 * decoder_layers) ** -0.5,
            **options,
            key=keys[4],
        )
        self.encoder_norm, self.decoder_norm = (make_norm("rms", size, epsilon=config.norm_epsilon) for _ in range(2))
        self.head = self.logit_bias = None
        if not tied:
            self.head = Linear(size, config.vocab_size, use_bias=False, scale=FRESH_LOGIT_STD, key=keys[5])

    @property
    def logit_scale(self) -> float:
        return 1.0 / math.sqrt(self.config.embed_size) if self.config.scale_hidden else 1.0

    def encode(
        self,
        source: Int[Array, " source"],
        source_length: Int[Array, ""] | int | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "source {self.config.embed_size}"]:
        mask, positions = self.source_mask(source, source_length), jnp.arange(source.shape[0])
        keys = (None,) * 3 if key is None else jax.random.split(key, 3)
        x = jnp.where(mask[0, :, None], self.embedding(source), 0)  # any id will do as padding
        bias = self.encoder_bias(positions, positions)
        x = self.encoder_stack(self.dropout(x, key=keys[0]), mask=mask, bias=bias, key=keys[1])
        return self.dropout(jax.vmap(self.encoder_norm)(x), key=keys[2])

    def embed_target(
        self, target_inputs: Int[Array, " target"]
    ) -> tuple[Float[Array, "target {self.config.embed_size}"], Float[Array, "heads target target"]]:
        positions = jnp.arange(target_inputs.shape[0])
        return self.embedding(target_inputs), self.decoder_bias(positions, positions)

    def target_decoder(
        self, blocks: tuple[CrossAttentionBlock, ...], projected_memory: ProjectedMemory
    ) -> TargetDecoder:
        return TargetDecoder(
            embedding=self.embedding, position_embedding=None, embedding_norm=None, relative_bias=self.decoder_bias,
            blocks=blocks, decoder_norm=self.decoder_norm, head=self.head, logit_bias=None,
            projected_memory=projected_memory, logit_scale=self.logit_scale, vocab_size=self.vocab_size,
            max_length=None, **self.config.generation_ids(),
        )  # fmt: skip
