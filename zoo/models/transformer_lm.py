"""A decoder-only Transformer language model, its config and its decoder.

tokens -> embedding + positions -> num_layers x (causal attention, feed-forward) -> norm -> head -> logits
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Float32, Int, PRNGKeyArray

from zoo.decoder import AbstractDecoder
from zoo.models.kv_state import KVState
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
from zoo.nn.embedding import LearnedPositions, RotaryPositions, Rotation, SinusoidalPositions, TokenEmbedding
from zoo.nn.feed_forward import ACTIVATIONS
from zoo.nn.linear import AbstractLinear, Linear
from zoo.nn.stack import Stack
from zoo.nn.transformer import NORMS, TransformerBlock, make_blocks, make_norm


@dataclass(frozen=True, kw_only=True)
class TransformerLMConfig:
    """What a `TransformerLM` is made of. Plain JSON; the defaults are Trax's choices.

    Raises:
        ValueError: a field out of its range, or two that do not fit.

    Example:
        >>> TransformerLMConfig.gpt2(num_layers=2).embed_size
        768
    """

    vocab_size: int
    """Number of different tokens."""
    embed_size: int
    """Length of a token's vector."""
    num_layers: int
    """Number of blocks."""
    num_heads: int
    """Heads of attention, a divisor of `embed_size` unless `head_size` is given."""
    mlp_size: int
    """Width of the feed-forward layers."""
    max_length: int
    """Most tokens of a sequence."""
    positions: Literal["learned", "sinusoidal", "rotary", "none"] = "learned"
    """A trained table, fixed sines and cosines, rotary positions in attention, or none."""
    position_init: Literal["sinusoidal", "normal"] = "sinusoidal"
    """Initialisation of the table of learned positions: sines and cosines (Trax) or normal (GPT-2)."""
    rotary_base: float = 10_000.0
    """Base of the rotary wavelengths, positive."""
    num_kv_heads: int | None = None
    """Heads of keys and values, a divisor of `num_heads`; as many by default."""
    head_size: int | None = None
    """Length of a head's vectors; `embed_size / num_heads` by default."""
    activation: Literal["relu", "gelu", "gelu_tanh", "silu"] = "relu"
    """Of the feed-forward layers; "gelu" is exact, "gelu_tanh" GPT-2's approximation."""
    gated: bool = False
    """Whether the feed-forward layers are gated (Llama)."""
    norm: Literal["layer", "rms"] = "layer"
    """LayerNorm or RMSNorm."""
    norm_epsilon: float = 1e-6
    """Added to variances (Trax 1e-6, GPT-2 1e-5)."""
    use_bias: bool = True
    """Biases in the blocks' projections and in LayerNorm."""
    use_head_bias: bool = True
    """A bias on the logits; a tied head has none."""
    tie_embeddings: bool = False
    """Whether the head shares the token embedding's weights."""
    weight_std: float | None = None
    """Standard deviation of the blocks' initial weights (GPT-2 0.02); `1 / sqrt(inputs)` by default."""
    dropout_p: float = 0.0
    """Dropout probability for embeddings, attention weights and residual branches, in [0, 1)."""
    remat: bool = False
    """Whether training recomputes the blocks' activations in the backward pass to save memory."""

    def __post_init__(self):
        check_plain(self)
        check_sizes(
            vocab_size=self.vocab_size, embed_size=self.embed_size, num_layers=self.num_layers,
            num_heads=self.num_heads, mlp_size=self.mlp_size, max_length=self.max_length,
        )  # fmt: skip
        _, head_size = head_sizes(self.embed_size, self.num_heads, self.num_kv_heads, self.head_size)
        check_choice("positions", self.positions, ("learned", "sinusoidal", "rotary", "none"))
        if self.positions == "rotary" and head_size % 2:
            raise ValueError(f"rotary positions need an even head_size, got {head_size}")
        check_choice("position_init", self.position_init, ("sinusoidal", "normal"))
        check_choice("activation", self.activation, ACTIVATIONS)
        check_choice("norm", self.norm, NORMS)
        check_flags(
            gated=self.gated, use_bias=self.use_bias, use_head_bias=self.use_head_bias,
            tie_embeddings=self.tie_embeddings, remat=self.remat,
        )  # fmt: skip
        check_positive(rotary_base=self.rotary_base, norm_epsilon=self.norm_epsilon, weight_std=self.weight_std)
        check_probability(dropout_p=self.dropout_p)

    @classmethod
    def trax(cls, **changes: Any) -> "TransformerLMConfig":
        """Trax's TransformerLM with its default sizes. Trax has no default for `vocab_size`: give it."""
        sizes = {"embed_size": 512, "num_layers": 6, "num_heads": 8, "mlp_size": 2048, "max_length": 2048}
        return cls(**{**sizes, "dropout_p": 0.1, **changes})

    @classmethod
    def gpt2(cls, **changes: Any) -> "TransformerLMConfig":
        """GPT-2, by default the smallest one, of 124 M parameters. `mlp_size` is 4 times `embed_size`."""
        embed_size = changes.get("embed_size", 768)
        preset: dict[str, Any] = {
            "vocab_size": 50_257, "embed_size": embed_size, "num_layers": 12, "num_heads": 12,
            "mlp_size": 4 * embed_size, "max_length": 1024, "position_init": "normal", "activation": "gelu_tanh",
            "norm_epsilon": 1e-5, "tie_embeddings": True, "weight_std": 0.02, "dropout_p": 0.1,
        }  # fmt: skip
        return cls(**{**preset, **changes})

    @classmethod
    def llama(cls, **changes: Any) -> "TransformerLMConfig":
        """Llama, by default Llama 2 of 7 B. `mlp_size` is 8/3 of `embed_size`, rounded up to a multiple of 256."""
        embed_size = changes.get("embed_size", 4096)
        preset: dict[str, Any] = {
            "vocab_size": 32_000, "embed_size": embed_size, "num_layers": 32, "num_heads": 32,
            "mlp_size": 256 * -(-(8 * embed_size // 3) // 256), "max_length": 4096, "positions": "rotary",
            "activation": "silu", "gated": True, "norm": "rms", "norm_epsilon": 1e-5, "use_bias": False,
            "use_head_bias": False, "weight_std": 0.02,
        }  # fmt: skip
        return cls(**{**preset, **changes})


class TransformerLM(eqx.Module):
    """Maps a sequence of tokens to logits: row i scores every token as the one that follows token i.

    Pre-norm blocks with causal attention; what varies between Trax, GPT-2 and Llama is in the config. Padding on
    the right changes nothing before it.

    References: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019; Trax,
    `trax/models/transformer.py`; Touvron et al., "Llama 2", 2023, arXiv:2307.09288.
    Differs from Trax: no shift inside the model (the data makes inputs and targets) and no log-softmax at its end.

    Example:
        >>> from zoo import TransformerLM, TransformerLMConfig, generate
        >>> config = TransformerLMConfig(
        ...     vocab_size=32, embed_size=16, num_layers=2, num_heads=4, mlp_size=64, max_length=10
        ... )
        >>> lm = TransformerLM(config, key=jax.random.key(0))
        >>> lm(jnp.array([0, 4, 6, 8, 10, 0])).shape
        (6, 32)
        >>> generate(lm.decoder(), [0, 4, 6, 8, 10, 0], max_new_tokens=4).tokens.shape
        (4,)
    """

    embedding: TokenEmbedding
    position_embedding: LearnedPositions | SinusoidalPositions | None
    rotary: RotaryPositions | None
    dropout: eqx.nn.Dropout
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
        self.dropout = eqx.nn.Dropout(config.dropout_p)
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
            use_bias=config.use_bias,
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
            self.rotary = RotaryPositions(self.stack.blocks.attention.head_size, config.rotary_base)
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
        check_ids("tokens", tokens)
        (length,) = tokens.shape
        if length > self.max_length:
            raise ValueError(f"{length} tokens exceed max_length ({self.max_length})")
        embed_key, stack_key = (None, None) if key is None else jax.random.split(key)
        x, rotation = embed(self, tokens, jnp.arange(length))
        x = self.dropout(x, key=embed_key)
        x = self.stack(x, causal=True, rotation=rotation, key=stack_key)
        return jax.vmap(self.final_norm)(x)

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
            max_length=lm.max_length,
        )  # fmt: skip


class TransformerLMDecoder(AbstractDecoder[KVState]):
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

    def init_state(self, capacity: int) -> KVState:
        attentions = [block.attention for block in self.blocks]
        return KVState.empty(attentions, capacity, max_length=self.max_length, dtype=self.embedding.weight.dtype)

    def prefill(
        self, tokens: Int[Array, " seq"], state: KVState, *, length: Int[Array, ""] | int | None = None
    ) -> tuple[Float32[Array, " vocab"], KVState]:
        length = tokens.shape[0] if length is None else length
        x, state, fits = self._forward(tokens, state, length)
        last = jnp.take(x, length - 1, axis=0, mode="clip")
        return jnp.where(fits & (length >= 1), self._logits(last), jnp.nan), state

    def extend(self, tokens: Int[Array, " seq"], state: KVState) -> tuple[Float32[Array, "seq vocab"], KVState]:
        x, state, fits = self._forward(tokens, state, tokens.shape[0])
        return jnp.where(fits, jax.vmap(self._logits)(x), jnp.nan), state

    def step(self, token: Int[Array, ""], state: KVState) -> tuple[Float32[Array, " vocab"], KVState]:
        x, state, fits = self._forward(token[None], state, 1)
        return jnp.where(fits, self._logits(x[0]), jnp.nan), state

    def _forward(
        self, tokens: Int[Array, " seq"], state: KVState, length: Int[Array, ""] | int
    ) -> tuple[Float[Array, "seq embed"], KVState, Bool[Array, ""]]:
        """Tokens through the blocks: the last output, the state after `length` of them, and whether they fit."""
        positions, slots, mask = state.place(tokens.shape[0], length)
        x, rotation = embed(self, tokens, positions)
        caches = []
        for block, cache in zip(self.blocks, state.caches.value, strict=True):
            x, cache = block.extend(x, cache, slots, mask=mask, rotation=rotation)
            caches.append(cache)
        return x, *state.advance(tuple(caches), length)

    def _logits(self, x: Float[Array, " embed"]) -> Float32[Array, " vocab"]:
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
