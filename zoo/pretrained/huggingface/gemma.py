"""Gemma 1. Its norms are stored as the zoo keeps them, less one."""

import dataclasses
from collections.abc import Collection
from typing import Any

from zoo.models.gemma import Gemma, GemmaConfig
from zoo.pretrained.huggingface import llama
from zoo.pretrained.huggingface.rope import Rope, read_rope, write_rope
from zoo.pretrained.huggingface.settings import Settings
from zoo.pretrained.huggingface.sizes import read_sizes, write_sizes

ACTIVATIONS = ("gelu_pytorch_tanh", "gelu_new")  # two words for one


def read_layers(settings: Settings) -> dict[str, Any]:
    """What all Gemmas have; the fields of our config."""
    settings.only("attention_bias", False)
    settings.only("use_bidirectional_attention", False)
    settings.only("tie_word_embeddings", True)
    return {
        **read_sizes(settings),
        "num_kv_heads": settings.size("num_key_value_heads"),
        "head_size": settings.size("head_dim", 256),
        "max_length": settings.size("max_position_embeddings", 8192),
        "norm_epsilon": settings.number("rms_norm_eps", 1e-6),
    }


def write_layers(config: GemmaConfig) -> dict[str, Any]:
    """The same the other way."""
    return {
        **write_sizes(config),
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_size,
        "max_position_embeddings": config.max_length,
        "rms_norm_eps": config.norm_epsilon,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "tie_word_embeddings": True,
    }


def read_config(settings: Settings, names: Collection[str]) -> GemmaConfig:
    # The first files said "gelu" and meant its approximation, which transformers then takes.
    key = "hidden_activation" if "hidden_activation" in settings else "hidden_act"
    settings.only(key, *ACTIVATIONS, "gelu")
    rope = read_plain_rope(settings)
    return GemmaConfig(**read_layers(settings), rotary_base=rope.base, rotary_factor=rope.factor)


def read_plain_rope(settings: Settings) -> Rope:
    """Rotary positions without bands, which our config has no place for."""
    rope = read_rope(settings)
    if rope.bands is not None:
        key = "rope_parameters" if "rope_parameters" in settings else "rope_scaling"
        raise settings.error(key, "of type default or linear")
    return rope


def write_config(config: GemmaConfig) -> dict[str, Any]:
    return {
        "architectures": ["GemmaForCausalLM"],
        **write_layers(config),
        **write_rope(Rope(config.rotary_base, config.rotary_factor)),
    }


def canonical(config: GemmaConfig) -> GemmaConfig:
    """Without what is for training, and with what a default or the rest of a config implies."""
    has_local = (
        config.window is not None and config.window < config.max_length
    ) or config.local_rotary_base is not None
    return dataclasses.replace(
        config,
        query_size=config.query_size or float(config.head_size),
        global_every=config.global_every if has_local else 1,
        dropout_p=0.0,
        remat=False,
    )


# The names are Llama's; a Gemma has no head of its own.
FAMILY = dataclasses.replace(
    llama.FAMILY,
    model_type="gemma",
    model=Gemma,
    read_config=read_config,
    write_config=write_config,
    canonical=canonical,
)
