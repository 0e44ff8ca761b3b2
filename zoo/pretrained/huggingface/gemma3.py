"""Gemma 3 for text: norms of queries and keys, and two rotary bases."""

import dataclasses
from collections.abc import Collection
from typing import Any

from zoo.models.gemma import GemmaConfig
from zoo.pretrained.huggingface import gemma2
from zoo.pretrained.huggingface.rope import Rope, read_rope, read_scaling, write_rope
from zoo.pretrained.huggingface.settings import Settings


def read_config(settings: Settings, names: Collection[str]) -> GemmaConfig:
    rope, local = read_ropes(settings)
    if local.factor != 1.0 or rope.bands is not None:
        raise settings.error("rope_parameters", "of type default or linear, and default in local layers")
    global_every = settings.size("sliding_window_pattern", settings.size("_sliding_window_pattern", 6))
    return GemmaConfig(
        **gemma2.read_layers(settings, global_every=global_every),
        qk_norm=True,
        score_cap=None,  # transformers reads `attn_logit_softcapping` and does not use it
        logit_cap=settings.number("final_logit_softcapping", None),
        rotary_base=rope.base,
        rotary_factor=rope.factor,
        local_rotary_base=local.base,
    )


def read_ropes(settings: Settings) -> tuple[Rope, Rope]:
    """Of global and of local layers: in one object for each kind (transformers 5), or in keys of their own."""
    bases = 1e6, settings.number("rope_local_base_freq", 1e4)
    parameters = settings.part("rope_parameters")
    kinds = "full_attention", "sliding_attention"
    if parameters is None or not any(kind in parameters for kind in kinds):
        return read_rope(settings, bases[0]), Rope(bases[1])
    parts = [parameters.part(kind) or Settings({}, settings.where) for kind in kinds]
    of_global, of_local = (read_scaling(part, base) for part, base in zip(parts, bases, strict=True))
    return of_global, of_local


def write_config(config: GemmaConfig) -> dict[str, Any]:
    local_base = config.rotary_base if config.local_rotary_base is None else config.local_rotary_base
    return {
        "architectures": ["Gemma3ForCausalLM"],
        **gemma2.write_layers(config),
        "sliding_window_pattern": config.global_every,
        **write_rope(Rope(config.rotary_base, config.rotary_factor)),
        "rope_local_base_freq": local_base,
    }


FAMILY = dataclasses.replace(
    gemma2.FAMILY, model_type="gemma3_text", read_config=read_config, write_config=write_config
)
