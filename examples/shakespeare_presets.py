"""What `shakespeare.py` trains: nanoGPT's model and ours, in two sizes."""

import dataclasses

from training import Precision
from zoo import TransformerLMConfig


@dataclasses.dataclass(frozen=True)
class Size:
    """What both presets of a size have in common: nanoGPT's two configurations."""

    num_layers: int
    num_heads: int
    embed_size: int
    context: int
    batch_size: int
    steps: int
    dropout_p: float
    precision: Precision


SIZES = {
    "cpu": Size(4, 4, 128, 64, 12, 2000, 0.0, "float32"),
    "gpu": Size(6, 6, 384, 256, 64, 5000, 0.2, "bfloat16"),
}
# nanoGPT's CPU model on tiny Shakespeare: learned positions, exact gelu, no biases, tied head, weights of 0.02.
NANOGPT = TransformerLMConfig(
    vocab_size=65, embed_size=128, num_layers=4, num_heads=4, mlp_size=512, max_length=64, position_init="normal",
    activation="gelu", norm_epsilon=1e-5, use_bias=False, use_head_bias=False, tie_embeddings=True, weight_std=0.02,
)  # fmt: skip
# Llama's parts at the same width: as many numbers in the three matrices of a gated layer as in two of nanoGPT's.
BEST = TransformerLMConfig(
    vocab_size=65, embed_size=128, num_layers=4, num_heads=4, mlp_size=344, max_length=64, positions="rotary",
    norm="rms", activation="silu", gated=True, use_bias=False, use_head_bias=False,
)  # fmt: skip
