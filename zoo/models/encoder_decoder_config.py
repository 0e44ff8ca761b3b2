"""What an `EncoderDecoder` is made of, and presets of it."""

from dataclasses import dataclass
from typing import Any, Literal

from zoo.decoder import GeneratorConfig
from zoo.models.target_decoder import FRESH_LOGIT_STD
from zoo.nn.checks import (
    check_choice,
    check_flags,
    check_plain,
    check_positive,
    check_probability,
    check_sizes,
    head_sizes,
)
from zoo.nn.feed_forward import ACTIVATIONS


@dataclass(frozen=True, kw_only=True)
class EncoderDecoderConfig(GeneratorConfig):
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
    """A trained table, initialised with sines and cosines, or fixed sines and cosines."""
    shared_positions: bool = True
    """Whether both sides share the trained table."""
    position_layout: Literal["interleaved", "halves"] = "interleaved"
    """Of fixed sines and cosines: in turns, or all sines before all cosines (Marian)."""
    embed_scale: float | None = None
    """Factor on the tokens' vectors; by default the square root of `embed_size` where the head is tied, else 1."""
    embedding_norm: bool = False
    """Whether a norm follows the sum of tokens' and positions' vectors (BART)."""
    pre_norm: bool = False
    """Whether norms stand before the blocks' parts, with one more after each stack."""
    activation: Literal["relu", "gelu", "gelu_tanh", "silu"] = "relu"
    """Of the feed-forward layers."""
    norm_epsilon: float = 1e-6
    """Added to variances."""
    tie_embeddings: bool = False
    """Whether the head shares the target embedding's weights."""
    logit_scale: float = FRESH_LOGIT_STD
    """Factor on the vectors that go into a tied head."""
    use_logit_bias: bool = False
    """Whether a tied head has a bias; one of its own always has."""
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
        check_choice("position_layout", self.position_layout, ("interleaved", "halves"))
        if self.positions == "sinusoidal" and self.embed_size % 2:
            raise ValueError(f"sinusoidal positions need an even embed_size, got {self.embed_size}")
        check_choice("activation", self.activation, ACTIVATIONS)
        check_flags(
            shared_positions=self.shared_positions, embedding_norm=self.embedding_norm, pre_norm=self.pre_norm,
            tie_embeddings=self.tie_embeddings, use_logit_bias=self.use_logit_bias, remat=self.remat,
        )  # fmt: skip
        check_positive(embed_scale=self.embed_scale, norm_epsilon=self.norm_epsilon, logit_scale=self.logit_scale)
        check_probability(dropout_p=self.dropout_p, head_dropout_p=self.head_dropout_p)
        self.check_generation_ids(self.vocab_size)

    @classmethod
    def bart(cls, **changes: Any) -> "EncoderDecoderConfig":
        """BART, by default the base model. `mlp_size` is 4 times `embed_size`."""
        embed_size = changes.get("embed_size", 768)
        preset: dict[str, Any] = {
            "vocab_size": 50_265, "embed_size": embed_size, "num_layers": 6, "num_heads": 12,
            "mlp_size": 4 * embed_size, "max_length": 1024, "shared_positions": False, "embed_scale": 1.0,
            "embedding_norm": True, "activation": "gelu", "norm_epsilon": 1e-5, "tie_embeddings": True,
            "logit_scale": 1.0, "use_logit_bias": True, "dropout_p": 0.1, "head_dropout_p": 0.0,
        }  # fmt: skip
        return cls(**{**preset, **changes})

    @classmethod
    def marian(cls, **changes: Any) -> "EncoderDecoderConfig":
        """Marian as the OPUS-MT models have it, but for `vocab_size`, which differs: give it."""
        embed_size = changes.get("embed_size", 512)
        preset: dict[str, Any] = {
            "embed_size": embed_size, "num_layers": 6, "num_heads": 8, "mlp_size": 4 * embed_size, "max_length": 512,
            "positions": "sinusoidal", "position_layout": "halves", "activation": "silu", "norm_epsilon": 1e-5,
            "tie_embeddings": True, "logit_scale": 1.0, "use_logit_bias": True, "dropout_p": 0.1,
            "head_dropout_p": 0.0,
        }  # fmt: skip
        return cls(**{**preset, **changes})
