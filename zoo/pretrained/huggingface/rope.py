"""Rotary positions in `config.json`, in the words of transformers 4 and of 5."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from zoo.pretrained.huggingface.settings import Settings


class Rope(NamedTuple):
    """Fields of a `RotaryPositions`."""

    base: float = 10_000.0
    factor: float = 1.0
    bands: Sequence[float | int] | None = None


def read_rope(settings: Settings, base: float = 10_000.0) -> Rope:
    """Out of `rope_parameters` (transformers 5), or of `rope_theta` and `rope_scaling` (4).

    Args:
        settings: `config.json`, or a part of it.
        base: where the file gives none.
    """
    scaling = settings.part("rope_parameters") or settings.part("rope_scaling")
    base = settings.number("rope_theta", base)
    if scaling is None:
        return Rope(base)
    return read_scaling(scaling, base)


def read_scaling(scaling: Settings, base: float) -> Rope:
    """Out of one object of rope parameters, which may hold the base, too."""
    scaling.only("partial_rotary_factor", 1.0)
    base = scaling.number("rope_theta", base)
    key = "rope_type" if "rope_type" in scaling else "type"
    kind = scaling.choice(key, {kind: kind for kind in ("default", "linear", "llama3")}, "default")
    if kind == "default":
        return Rope(base)
    factor = scaling.number("factor")
    if kind == "linear":
        return Rope(base, factor)
    low, high = scaling.number("low_freq_factor"), scaling.number("high_freq_factor")
    return Rope(base, factor, (low, high, scaling.size("original_max_position_embeddings")))


def write_rope(rope: Rope) -> dict[str, Any]:
    """In the words of transformers 4, which later ones understand."""
    if rope.factor == 1.0:
        return {"rope_theta": rope.base}
    return {"rope_theta": rope.base, "rope_scaling": write_scaling(rope)}


def write_scaling(rope: Rope) -> dict[str, Any]:
    """The object of rope parameters, without the base."""
    if rope.bands is None:
        return {"rope_type": "linear", "factor": rope.factor}
    low, high, length = rope.bands
    return {
        "rope_type": "llama3", "factor": rope.factor, "low_freq_factor": low, "high_freq_factor": high,
        "original_max_position_embeddings": length,
    }  # fmt: skip
