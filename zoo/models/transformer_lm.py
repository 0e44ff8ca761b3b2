"""A decoder-only Transformer language model and its decoder; its config is in `transformer_lm_config`.

tokens -> embedding + positions -> num_layers x (causal attention, feed-forward) -> norm -> head -> logits
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Float32, Int, PRNGKeyArray

from zoo.models.kv_state import AbstractKVDecoder, KVState
from zoo.models.transformer_lm_config import TransformerLMConfig
from zoo.nn.blocks import make_blocks
from zoo.nn.checks import check_ids
from zoo.nn.dropout import Dropout
from zoo.nn.embedding import LearnedPositions, RotaryPositions, Rotation, SinusoidalPositions, TokenEmbedding
from zoo.nn.linear import AbstractLinear, Linear
from zoo.nn.masks import cache_mask
from zoo.nn.norm import make_norm
from zoo.nn.stack import Stack
from zoo.nn.transformer import TransformerBlock


class TransformerLM(eqx.Module):
    """Maps a sequence of tokens to logits: row i scores every token as the one that follows token i.

    Pre-norm blocks with causal attention; what varies between Trax, GPT-2, Llama, Mistral and Qwen is in the config.
    Padding on the right changes nothing before it.

    References: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019; Trax,
    `trax/models/transformer.py`; Touvron et al., "Llama 2", 2023, arXiv:2307.09288.
    Differs from Trax: no shift inside the model (the data makes inputs and targets) and no log-softmax at its end.

    Example:
        >>> from zoo import TransformerLM, TransformerLMConfig, generate
        >>> config = TransformerLMConfig(
        ...     vocab_size=32, embed_size=16, num_layers=2, num_heads=4, mlp_size=64, max_length=10
        ... )
        >>> lm = eqx.filter_jit(TransformerLM)(config, key=jax.random.key(0))
        >>> eqx.filter_jit(lm)(jnp.array([0, 4, 6, 8, 10, 0])).shape
        (6, 32)
        >>> generate(lm.decoder(), [0, 4, 6, 8, 10, 0], max_new_tokens=4).tokens.shape
        (4,)
    """

    embedding: TokenEmbedding
    position_embedding: LearnedPositions | SinusoidalPositions | None
    rotary: RotaryPositions | None
    dropout: Dropout
    stack: Stack[TransformerBlock]
    final_norm: eqx.nn.LayerNorm | eqx.nn.RMSNorm
    head: AbstractLinear | None
    config: TransformerLMConfig = eqx.field(static=True)

    def __init__(self, config: TransformerLMConfig, *, key: PRNGKeyArray):
        """
        Args:
            config: sizes and choices.
            key: for the weights.
        """
        embedding_key, position_key, stack_key, head_key = jax.random.split(key, 4)
        size = config.embed_size
        # Logits of a fresh model have a variance of at most 0.04, so its loss is ln(vocab_size) to a few hundredths.
        head_scale = 0.2
        embedding_std = min(0.02, head_scale / math.sqrt(size)) if config.tie_embeddings else 1.0
        self.embedding = TokenEmbedding(config.vocab_size, size, std=embedding_std, key=embedding_key)
        self.position_embedding = None
        if config.positions == "learned":
            self.position_embedding = LearnedPositions(
                config.max_length, size, init=config.position_init, key=position_key
            )
        elif config.positions == "sinusoidal":
            self.position_embedding = SinusoidalPositions(size)
        self.dropout = Dropout(config.dropout_p)
        self.stack = make_blocks(
            TransformerBlock,
            config.num_layers,
            size,
            config.num_heads,
            config.mlp_size,
            num_kv_heads=config.num_kv_heads,
            head_size=config.head_size,
            activation=config.activation,
            gated=config.gated,
            norm=config.norm,
            norm_epsilon=config.norm_epsilon,
            qk_norm=config.qk_norm,
            use_bias=config.use_bias,
            attention_bias=config.attention_bias,
            weight_std=config.weight_std,
            # The variance of the residual stream, to which 2 * num_layers parts add, stays near one (GPT-2).
            out_scale=1.0 / math.sqrt(2 * config.num_layers),
            dropout_p=config.dropout_p,
            attention_dropout_p=config.dropout_p,
            remat=config.remat,
            key=stack_key,
        )
        self.rotary = None
        if config.positions == "rotary":
            self.rotary = RotaryPositions(
                self.stack.blocks.attention.head_size, config.rotary_base, factor=config.rotary_factor,
                bands=config.rotary_bands,
            )  # fmt: skip
        self.final_norm = make_norm(config.norm, size, epsilon=config.norm_epsilon, use_bias=config.use_bias)
        self.head = None
        if not config.tie_embeddings:
            self.head = Linear(size, config.vocab_size, use_bias=config.use_head_bias, scale=head_scale, key=head_key)
        self.config = config

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    @property
    def max_length(self) -> int:
        return self.config.max_length

    def hidden(
        self, tokens: Int[Array, " seq"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "seq {self.config.embed_size}"]:
        """The vectors that the head projects to logits. Arguments as in `__call__`."""
        embed_key, stack_key = (None, None) if key is None else jax.random.split(key)
        x, shared = self._into_blocks(tokens)
        x = self.stack(self.dropout(x, key=embed_key), **shared, key=stack_key)
        return jax.vmap(self.final_norm)(x)

    def hidden_states(self, tokens: Int[Array, " seq"]) -> Float[Array, "layers seq {self.config.embed_size}"]:
        """What goes into the first block and what comes out of each, without dropout; the last misses its norm."""
        x, shared = self._into_blocks(tokens)
        return eqx.nn.inference_mode(self.stack).states(x, **shared)

    def attention_weights(self, tokens: Int[Array, " seq"]) -> Float[Array, "layers heads seq seq"]:
        """How much each token (third axis) attends to each one (fourth), in each layer and head, without dropout."""
        x, shared = self._into_blocks(tokens)
        return eqx.nn.inference_mode(self.stack).attention_weights(x, **shared)

    def _into_blocks(self, tokens: Int[Array, " seq"]) -> tuple[Float[Array, "seq embed"], dict[str, Any]]:
        """What the first block gets, and what all of them get."""
        check_ids("tokens", tokens, self.max_length)
        (length,) = tokens.shape
        x, rotation = embed(self, tokens, jnp.arange(length))
        window = self.config.window
        mask = None if window is None else cache_mask(jnp.arange(length), length, window)
        return x, {"mask": mask, "causal": True, "rotation": rotation}

    def project(
        self, hidden: Float[Array, "*seq {self.config.embed_size}"]
    ) -> Float32[Array, "*seq {self.vocab_size}"]:
        """Logits of hidden vectors, in float32 whatever the type of the weights."""
        return self.embedding.project(hidden) if self.head is None else self.head.accumulate(hidden)

    def __call__(
        self, tokens: Int[Array, " seq"], *, key: PRNGKeyArray | None = None
    ) -> Float32[Array, "seq {self.vocab_size}"]:
        """
        Args:
            tokens: ids in 0 to vocab_size - 1, at most `max_length`; others give NaN.
            key: for dropout, needed in training where dropout_p > 0.

        Returns:
            Logits; row i scores token i + 1.
        """
        return self.project(self.hidden(tokens, key=key))

    def decoder(self) -> "TransformerLMDecoder":
        """This model for one token at a time, without dropout: for `zoo.sampling`. Costs a copy of the weights."""
        lm = eqx.nn.inference_mode(self)
        return TransformerLMDecoder(
            embedding=lm.embedding, position_embedding=lm.position_embedding, rotary=lm.rotary,
            blocks=lm.stack.unstack(), final_norm=lm.final_norm, head=lm.head, vocab_size=lm.vocab_size,
            max_length=lm.max_length, window=lm.config.window, **lm.config.generation_ids(),
        )  # fmt: skip


class TransformerLMDecoder(AbstractKVDecoder):
    """A `TransformerLM` one token at a time, made by `TransformerLM.decoder()`.

    Its blocks are not stacked: slices of stacked weights and caches would be copied at every token.
    """

    embedding: TokenEmbedding
    position_embedding: LearnedPositions | SinusoidalPositions | None
    rotary: RotaryPositions | None
    blocks: tuple[TransformerBlock, ...]
    final_norm: eqx.nn.LayerNorm | eqx.nn.RMSNorm
    head: AbstractLinear | None
    vocab_size: int = eqx.field(static=True)
    max_length: int | None = eqx.field(static=True)
    window: int | None = eqx.field(static=True)

    def forward(
        self, tokens: Int[Array, " seq"], state: KVState, length: Int[Array, ""] | int
    ) -> tuple[Float[Array, "seq embed"], KVState, Bool[Array, ""]]:
        positions, slots, mask = state.place(tokens.shape[0], length, self.window)
        x, rotation = embed(self, tokens, positions)
        caches = []
        for block, cache in zip(self.blocks, state.caches.value, strict=True):
            x, cache = block.extend(x, cache, slots, mask=mask, rotation=rotation)
            caches.append(cache)
        return x, *state.advance(tuple(caches), length)

    def logits(self, x: Float[Array, " embed"]) -> Float32[Array, " vocab"]:
        x = self.final_norm(x)
        return self.embedding.project(x) if self.head is None else self.head.accumulate(x)


def embed(
    model: TransformerLM | TransformerLMDecoder, tokens: Int[Array, " seq"], positions: Int[Array, " seq"]
) -> tuple[Float[Array, "seq embed"], Rotation | None]:
    """What goes into the first block, and the rotation that goes into all of them."""
    x = model.embedding(tokens)
    if model.position_embedding is not None:
        x = x + model.position_embedding(positions).astype(x.dtype)
    return x, None if model.rotary is None else model.rotary(positions)
