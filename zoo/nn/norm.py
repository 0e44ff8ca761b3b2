"""The norms that the Transformers of the zoo have."""

from typing import Literal

import equinox as eqx

from zoo.nn.checks import check_choice, check_positive

NORMS = ("layer", "rms")


def make_norm(
    norm: Literal["layer", "rms"], size: int, *, epsilon: float, use_bias: bool = True
) -> eqx.nn.LayerNorm | eqx.nn.RMSNorm:
    """LayerNorm or RMSNorm (which has no bias) over vectors of `size`; both compute in float32."""
    check_choice("norm", norm, NORMS)
    check_positive(norm_epsilon=epsilon)
    if norm == "layer":
        return eqx.nn.LayerNorm(size, eps=epsilon, use_bias=use_bias)
    return eqx.nn.RMSNorm(size, eps=epsilon, use_bias=False)
