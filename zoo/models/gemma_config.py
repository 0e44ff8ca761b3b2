"""What a `Gemma` is made of, and presets of it."""

from dataclasses import dataclass
from typing import Any

from zoo.decoder import GeneratorConfig
from zoo.nn.checks import check_flags, check_plain, check_positive, check_probability, check_sizes, head_sizes


@dataclass(frozen=True, kw_only=True)
class GemmaConfig(GeneratorConfig):
    """What a `Gemma` is made of. Plain JSON; the defaults are Gemma 1's choices.

    Raises:
        ValueError: a field out of its range, or two that do not fit.

    Example:
        >>> GemmaConfig.gemma3(num_layers=2).global_every
        6
    """

    vocab_size: int
    """Number of different tokens."""
    embed_size: int
    """Length of a token's vector."""
    num_layers: int
    """Number of blocks."""
    num_heads: int
    """Heads of queries."""
    num_kv_heads: int
    """Heads of keys and values, a divisor of `num_heads`."""
    head_size: int
    """Length of a head's vectors, even."""
    mlp_size: int
    """Width of the feed-forward layers."""
    max_length: int
    """Most tokens of a sequence."""
    norm_epsilon: float = 1e-6
    """Added to variances."""
    norm_after: bool = False
    """Whether what comes out of attention and feed-forward is normalised, too (Gemma 2 and 3)."""
    qk_norm: bool = False
    """Whether each head's queries and keys are normalised (Gemma 3)."""
    query_size: float | None = None
    """Scores are divided by the root of this; `head_size` by default."""
    score_cap: float | None = None
    """What the magnitude of scores stays below; no bound by default (Gemma 2 has 50)."""
    logit_cap: float | None = None
    """What the magnitude of logits stays below; no bound by default (Gemma 2 has 30)."""
    window: int | None = None
    """How many tokens, itself included, a token attends to in a local layer; all by default."""
    global_every: int = 1
    """Every so-many-th layer is global, the others are local: 1 in Gemma 1, 2 in Gemma 2, 6 in Gemma 3."""
    rotary_base: float = 10_000.0
    """Base of the rotary wavelengths, of global layers in Gemma 3."""
    rotary_factor: float = 1.0
    """What these wavelengths are stretched by (8 in the larger Gemmas 3)."""
    local_rotary_base: float | None = None
    """Base of the rotary wavelengths of local layers, which are not stretched; that of all by default."""
    dropout_p: float = 0.0
    """Dropout probability for embeddings, attention weights and residual branches, in [0, 1)."""
    remat: bool = False
    """Whether training recomputes the blocks' activations in the backward pass to save memory."""

    def __post_init__(self):
        check_plain(self)
        check_sizes(
            vocab_size=self.vocab_size, embed_size=self.embed_size, num_layers=self.num_layers,
            num_heads=self.num_heads, mlp_size=self.mlp_size, max_length=self.max_length, window=self.window,
            global_every=self.global_every,
        )  # fmt: skip
        head_sizes(self.embed_size, self.num_heads, self.num_kv_heads, self.head_size)
        if self.head_size % 2:
            raise ValueError(f"rotary positions need an even head_size, got {self.head_size}")
        check_flags(norm_after=self.norm_after, qk_norm=self.qk_norm, remat=self.remat)
        check_positive(
            norm_epsilon=self.norm_epsilon, query_size=self.query_size, score_cap=self.score_cap,
            logit_cap=self.logit_cap, rotary_base=self.rotary_base, rotary_factor=self.rotary_factor,
            local_rotary_base=self.local_rotary_base,
        )  # fmt: skip
        check_probability(dropout_p=self.dropout_p)
        self.check_generation_ids(self.vocab_size)

    @classmethod
    def gemma1(cls, **changes: Any) -> "GemmaConfig":
        """Gemma 1, by default that of 2 B."""
        preset: dict[str, Any] = {
            "vocab_size": 256_000, "embed_size": 2048, "num_layers": 18, "num_heads": 8, "num_kv_heads": 1,
            "head_size": 256, "mlp_size": 16_384, "max_length": 8192,
        }  # fmt: skip
        return cls(**{**preset, **changes})

    @classmethod
    def gemma2(cls, **changes: Any) -> "GemmaConfig":
        """Gemma 2, by default that of 2 B."""
        preset: dict[str, Any] = {
            "vocab_size": 256_000, "embed_size": 2304, "num_layers": 26, "num_heads": 8, "num_kv_heads": 4,
            "head_size": 256, "mlp_size": 9216, "max_length": 8192, "norm_after": True, "query_size": 256.0,
            "score_cap": 50.0, "logit_cap": 30.0, "window": 4096, "global_every": 2,
        }  # fmt: skip
        return cls(**{**preset, **changes})

    @classmethod
    def gemma3(cls, **changes: Any) -> "GemmaConfig":
        """Gemma 3, by default that of 1 B."""
        preset: dict[str, Any] = {
            "vocab_size": 262_144, "embed_size": 1152, "num_layers": 26, "num_heads": 4, "num_kv_heads": 1,
            "head_size": 256, "mlp_size": 6912, "max_length": 32_768, "norm_after": True, "qk_norm": True,
            "query_size": 256.0, "window": 512, "global_every": 6, "rotary_base": 1e6, "local_rotary_base": 1e4,
        }  # fmt: skip
        return cls(**{**preset, **changes})

    def is_local(self, layer: int) -> bool:
        """Whether a layer, counted from 0, is a local one."""
        return (layer + 1) % self.global_every != 0
