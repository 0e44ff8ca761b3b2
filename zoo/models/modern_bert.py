"""ModernBERT, an encoder of long texts most of whose layers look at what is near, and its config.

tokens -> embedding -> norm -> num_layers x (attention to all or to what is near, gated feed-forward) -> norm
-> a vector for each token, and on to what `AbstractTextEncoder` makes of them
"""

import math
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, PRNGKeyArray

from zoo.models.abstract_text_encoder import AbstractTextEncoder, AbstractTextEncoderConfig, Transform, pooled
from zoo.nn.blocks import make_blocks
from zoo.nn.checks import check_ids, check_positive, check_sizes, head_sizes
from zoo.nn.dropout import Dropout
from zoo.nn.embedding import RotaryPositions, TokenEmbedding
from zoo.nn.linear import AbstractLinear, Linear
from zoo.nn.masks import padding_mask
from zoo.nn.norm import make_norm
from zoo.nn.stack import Stack
from zoo.nn.transformer import TransformerBlock

WEIGHT_STD = 0.02  # of all initial weights but the heads'


@dataclass(frozen=True, kw_only=True)
class ModernBertConfig(AbstractTextEncoderConfig):
    """What a `ModernBert`, which has at least two blocks, is made of. Plain JSON.

    Raises:
        ValueError: a field out of its range, or two that do not fit.
    """

    max_length: int = 8192
    norm_epsilon: float = 1e-5
    dropout_p: float = 0.0
    window: int = 128
    """How many others a token attends to in local layers, half of them before it and half after it."""
    global_every: int = 3
    """Every so many layers, from the first one on, a token attends to all."""
    rotary_base: float = 160_000.0
    """Base of the rotary wavelengths of global layers, positive."""
    local_rotary_base: float = 10_000.0
    """Base of the rotary wavelengths of local layers, positive."""

    def __post_init__(self):
        self.check()
        check_sizes(window=self.window, global_every=self.global_every)
        if self.num_layers < 2:
            raise ValueError(f"num_layers must be at least 2, got {self.num_layers}")
        _, head_size = head_sizes(self.embed_size, self.num_heads)
        if head_size % 2:
            raise ValueError(f"embed_size must be an even number of times num_heads, got {head_size} times that")
        check_positive(rotary_base=self.rotary_base, local_rotary_base=self.local_rotary_base)

    @classmethod
    def base(cls, **changes: Any) -> "ModernBertConfig":
        """The base model with its masked-language-model head."""
        sizes = {"vocab_size": 50_368, "embed_size": 768, "num_layers": 22, "num_heads": 12, "mlp_size": 1152}
        return cls(**{**sizes, "head": "masked_lm", **changes})


class ModernBert(AbstractTextEncoder):
    """Maps a text's tokens to a vector each that depends on all of them, and on to logits or to one for the text.

    Pre-norm blocks with rotary positions and no biases; the first one has no norm before its attention, since the
    embedding has just been normalised. Which layers look at all and which at what is near is in the config. What
    there is to call and what comes out is documented with `AbstractTextEncoder`.

    References: Warner et al., "Smarter, Better, Faster, Longer", 2024, arXiv:2412.13663.
    Differs from the original: one probability of dropout.

    Example:
        >>> config = ModernBertConfig.base(vocab_size=100, embed_size=16, num_layers=4, num_heads=4, mlp_size=24)
        >>> encoder = eqx.filter_jit(ModernBert)(config, key=jax.random.key(0))
        >>> eqx.filter_jit(encoder)(jnp.array([2, 7, 42, 3])).shape
        (4, 100)
    """

    embedding: TokenEmbedding
    embedding_norm: eqx.nn.LayerNorm | eqx.nn.RMSNorm
    rotary: RotaryPositions
    local_rotary: RotaryPositions
    dropout: Dropout
    first_block: TransformerBlock
    stack: Stack[TransformerBlock]  # of all blocks but the first
    final_norm: eqx.nn.LayerNorm | eqx.nn.RMSNorm
    transform: Transform | None
    logit_bias: Float[Array, " vocab"] | None  # of all tokens
    head: AbstractLinear | None  # of a classifier
    config: ModernBertConfig = eqx.field(static=True)

    def __init__(self, config: ModernBertConfig, *, key: PRNGKeyArray):
        """
        Args:
            config: sizes and choices.
            key: for the weights.
        """
        keys, size = jax.random.split(key, 4), config.embed_size
        # Logits of a fresh model have a variance of at most 0.04, so its loss is ln(classes) to a few hundredths.
        self.embedding = TokenEmbedding(config.vocab_size, size, std=min(WEIGHT_STD, 0.2 / size**0.5), key=keys[0])
        self.embedding_norm, self.final_norm = (
            make_norm("layer", size, epsilon=config.norm_epsilon, use_bias=False) for _ in range(2)
        )
        head_size = size // config.num_heads
        self.rotary = RotaryPositions(head_size, config.rotary_base)
        self.local_rotary = RotaryPositions(head_size, config.local_rotary_base)
        self.dropout = Dropout(config.dropout_p)
        first, *rest = make_blocks(
            TransformerBlock, config.num_layers, size, config.num_heads, config.mlp_size,
            activation=config.activation, gated=True, norm_epsilon=config.norm_epsilon, use_bias=False,
            weight_std=WEIGHT_STD, out_scale=1.0 / math.sqrt(2 * config.num_layers), dropout_p=config.dropout_p,
            attention_dropout_p=config.dropout_p, key=keys[1],
        ).unstack()  # fmt: skip
        self.first_block = eqx.tree_at(lambda block: block.attention_norm, first, eqx.nn.Identity())
        self.stack = Stack(Stack.of(rest).blocks, len(rest), config.remat)
        self.transform = self.logit_bias = self.head = None
        if config.head != "none":
            self.transform = Transform(size, config.activation, config.norm_epsilon, use_bias=False, key=keys[2])
        if config.head == "masked_lm":
            self.logit_bias = jnp.zeros(config.vocab_size)
        if config.num_classes is not None:
            self.head = Linear(size, config.num_classes, scale=0.2, key=keys[3])
        self.config = config

    def encode(
        self,
        tokens: Int[Array, " seq"],
        length: Int[Array, ""] | int | None = None,
        *,
        types: Int[Array, " seq"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "seq {self.config.embed_size}"]:
        check_ids("tokens", tokens, self.max_length)
        if types is not None:
            raise ValueError("types are given, but the model has none")
        (seq,), config = tokens.shape, self.config
        embed_key, first_key, stack_key = (None,) * 3 if key is None else jax.random.split(key, 3)
        positions = jnp.arange(seq)
        mask = padding_mask(seq if length is None else length, seq)
        near = jnp.abs(positions[:, None] - positions[None, :]) <= config.window // 2
        everywhere = jnp.broadcast_to(mask, near.shape), self.rotary(positions)
        nearby = mask & near, self.local_rotary(positions)

        def apply(block: TransformerBlock, x: Array, entry: Any) -> tuple[Array, None]:
            is_global, key = entry
            mask, rotation = jax.tree.map(lambda a, b: jnp.where(is_global, a, b), everywhere, nearby)
            return block(x, mask=mask, rotation=rotation, key=key), None

        x = jnp.where(mask[0, :, None], self.embedding(tokens), 0)  # any id will do as padding
        x = self.dropout(jax.vmap(self.embedding_norm)(x), key=embed_key)
        x = self.first_block(x, mask=everywhere[0], rotation=everywhere[1], key=first_key)
        are_global = jnp.arange(1, config.num_layers) % config.global_every == 0
        keys = None if stack_key is None else jax.random.split(stack_key, len(self.stack))
        x, _ = self.stack.scan(apply, x, (are_global, keys))
        return jax.vmap(self.final_norm)(x)

    def pool(
        self, encoded: Float[Array, "seq {self.config.embed_size}"], length: Int[Array, ""] | int | None = None
    ) -> Float[Array, " {self.config.embed_size}"]:
        """The first token's vector or the mean, as the config says, through the transform if there is one."""
        x = pooled(encoded, length, self.config.pooling)
        return x if self.transform is None else self.transform(x[None])[0]
