"""Qwen 3: a Llama that normalises each head's queries and keys."""

import dataclasses
from collections.abc import Collection
from typing import Any

from zoo.models.transformer_lm import TransformerLMConfig
from zoo.pretrained.huggingface import llama, qwen2
from zoo.pretrained.huggingface.settings import Settings


def read_config(settings: Settings, names: Collection[str]) -> TransformerLMConfig:
    head_size = settings.size("head_dim", 128)
    biases = {"use_bias": False, "attention_bias": "all" if settings.flag("attention_bias", False) else "none"}
    return qwen2.read_config(settings, names, qk_norm=True, head_size=head_size, **biases)


def write_config(config: TransformerLMConfig) -> dict[str, Any]:
    return qwen2.write_config(config) | {"architectures": ["Qwen3ForCausalLM"]}


FAMILY = dataclasses.replace(llama.FAMILY, model_type="qwen3", read_config=read_config, write_config=write_config)
