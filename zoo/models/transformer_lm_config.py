"""What a `TransformerLM` is made of, and presets of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from zoo.decoder import GeneratorConfig
from zoo.nn.blocks import ATTENTION_BIASES
from zoo.nn.checks import (
    check_bands,
    check_choice,
    check_flags,
    check_plain,
    check_positive,
    check_probability,
    check_sizes,
    head_sizes,
)
from zoo.nn.feed_forward import ACTIVATIONS
from zoo.nn.norm import NORMS


@dataclass(frozen=True, kw_only=True)
class TransformerLMConfig(GeneratorConfig):
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
    rotary_factor: float = 1.0
    """What the rotary wavelengths are stretched by, for longer texts than were trained on; positive."""
    rotary_bands: Sequence[float | int] | None = None
    """`(low, high, length)`: only waves of fewer than `high` turns in `length` tokens are stretched, those of fewer
    than `low` in full (Llama 3); all of them by default."""
    window: int | None = None
    """How many tokens, itself included, a token attends to (Mistral); all by default."""
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
    qk_norm: bool = False
    """Whether each head's queries and keys are normalised (Qwen3)."""
    use_bias: bool = True
    """Biases in the blocks' projections and in LayerNorm."""
    attention_bias: Literal["all", "qkv", "none"] | None = None
    """Which projections of attention have a bias: "qkv" all but the output (Qwen2); by default as `use_bias` says."""
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
            num_heads=self.num_heads, mlp_size=self.mlp_size, max_length=self.max_length, window=self.window,
        )  # fmt: skip
        _, head_size = head_sizes(self.embed_size, self.num_heads, self.num_kv_heads, self.head_size)
        check_choice("positions", self.positions, ("learned", "sinusoidal", "rotary", "none"))
        if self.positions == "rotary" and head_size % 2:
            raise ValueError(f"rotary positions need an even head_size, got {head_size}")
        check_choice("position_init", self.position_init, ("sinusoidal", "normal"))
        check_choice("activation", self.activation, ACTIVATIONS)
        check_choice("norm", self.norm, NORMS)
        if self.attention_bias is not None:
            check_choice("attention_bias", self.attention_bias, ATTENTION_BIASES)
        check_flags(
            gated=self.gated, qk_norm=self.qk_norm, use_bias=self.use_bias, use_head_bias=self.use_head_bias,
            tie_embeddings=self.tie_embeddings, remat=self.remat,
        )  # fmt: skip
        check_positive(
            rotary_base=self.rotary_base, rotary_factor=self.rotary_factor, norm_epsilon=self.norm_epsilon,
            weight_std=self.weight_std,
        )  # fmt: skip
        check_bands(self.rotary_bands)
        check_probability(dropout_p=self.dropout_p)
        self.check_generation_ids(self.vocab_size)

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
