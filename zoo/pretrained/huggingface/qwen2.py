"""Qwen 2 and 2.5: a Llama with biases on queries, keys and values."""

import dataclasses
from collections.abc import Collection
from typing import Any

from zoo.models.transformer_lm import TransformerLMConfig
from zoo.pretrained.huggingface import llama
from zoo.pretrained.huggingface.settings import Settings


def read_config(settings: Settings, names: Collection[str], **changes: Any) -> TransformerLMConfig:
    biases = {"use_bias": False, "attention_bias": "qkv"}
    return llama.read_config(settings, names, **biases | {"window": read_window(settings)} | changes)


def read_window(settings: Settings) -> int | None:
    """The window of all layers; that some have one and others none is refused."""
    if not settings.flag("use_sliding_window", False):
        return None
    num_layers, key = settings.size("num_hidden_layers"), "layer_types"
    kinds = set(settings.values.get(key, ()))
    if not kinds:
        key, first = "max_window_layers", settings.number("max_window_layers", 28)
        kinds = {"sliding_attention" if layer >= first else "full_attention" for layer in range(num_layers)}
    if kinds not in ({"full_attention"}, {"sliding_attention"}):
        raise settings.error(key, "such that all layers have a window or none has")
    return settings.size("sliding_window", 4096) if "sliding_attention" in kinds else None


def write_config(config: TransformerLMConfig) -> dict[str, Any]:
    windowed = config.window is not None
    return llama.write_config(config) | {
        "architectures": ["Qwen2ForCausalLM"],
        "use_sliding_window": windowed,
        **({"sliding_window": config.window, "max_window_layers": 0} if windowed else {}),
    }


FAMILY = dataclasses.replace(llama.FAMILY, model_type="qwen2", read_config=read_config, write_config=write_config)
