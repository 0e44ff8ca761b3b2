"""Gemma 2: norms after both parts, too, so that one name means another norm than in Gemma 1; caps; windows."""

import dataclasses
from collections.abc import Collection
from typing import Any

from zoo.models.gemma import GemmaConfig
from zoo.pretrained.huggingface import gemma, llama
from zoo.pretrained.huggingface.rope import Rope, write_rope
from zoo.pretrained.huggingface.settings import Settings


def read_config(settings: Settings, names: Collection[str]) -> GemmaConfig:
    rope = gemma.read_plain_rope(settings)
    return GemmaConfig(
        **read_layers(settings, global_every=2),
        score_cap=read_cap(settings, "attn_logit_softcapping", 50.0),
        logit_cap=read_cap(settings, "final_logit_softcapping", 30.0),
        rotary_base=rope.base,
        rotary_factor=rope.factor,
    )


def read_layers(settings: Settings, *, global_every: int) -> dict[str, Any]:
    """What Gemma 2 and 3 have in common: norms, scale, windows."""
    settings.only("hidden_activation", *gemma.ACTIVATIONS)
    sizes = gemma.read_layers(settings)
    layers = range(1, sizes["num_layers"] + 1)
    kinds = ["full_attention" if layer % global_every == 0 else "sliding_attention" for layer in layers]
    settings.only("layer_types", kinds)
    return sizes | {
        "norm_after": True,
        "query_size": settings.number("query_pre_attn_scalar", 256.0),
        "window": settings.size("sliding_window", 4096),
        "global_every": global_every,
    }


def read_cap(settings: Settings, key: str, default: float | None) -> float | None:
    """A number, where null means that there is none."""
    return settings.number(key, None if key in settings.nulls else default)


def write_layers(config: GemmaConfig) -> dict[str, Any]:
    """The same the other way."""
    layers = range(config.num_layers)
    query_size = config.query_size or float(config.head_size)
    return gemma.write_layers(config) | {
        "query_pre_attn_scalar": int(query_size) if query_size.is_integer() else query_size,
        "sliding_window": config.window,
        "layer_types": ["sliding_attention" if config.is_local(layer) else "full_attention" for layer in layers],
        "attn_logit_softcapping": config.score_cap,
        "final_logit_softcapping": config.logit_cap,
    }


def write_config(config: GemmaConfig) -> dict[str, Any]:
    return {
        "architectures": ["Gemma2ForCausalLM"],
        **write_layers(config),
        **write_rope(Rope(config.rotary_base, config.rotary_factor)),
    }


FAMILY = dataclasses.replace(
    gemma.FAMILY,
    model_type="gemma2",
    read_config=read_config,
    write_config=write_config,
    table={
        **llama.TABLE,
        "stack.blocks.attention_norm_after": "model.layers.{}.post_attention_layernorm",
        "stack.blocks.mlp_norm": "model.layers.{}.pre_feedforward_layernorm",
        "stack.blocks.mlp_norm_after": "model.layers.{}.post_feedforward_layernorm",
    },
)
