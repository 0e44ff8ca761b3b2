"""Mistral: a Llama whose tokens attend to a window."""

import dataclasses
from collections.abc import Collection
from typing import Any

from zoo.models.transformer_lm import TransformerLMConfig
from zoo.pretrained.huggingface import llama
from zoo.pretrained.huggingface.settings import Settings


def read_config(settings: Settings, names: Collection[str]) -> TransformerLMConfig:
    # Null is no window; a file without the key has the one of the first Mistral.
    window = settings.size("sliding_window", None if "sliding_window" in settings.nulls else 4096)
    config = llama.read_config(settings, names, window=window)
    return dataclasses.replace(config, use_bias=False, attention_bias="none")


def write_config(config: TransformerLMConfig) -> dict[str, Any]:
    llamas = llama.write_config(config)
    kept = {key: value for key, value in llamas.items() if key not in ("attention_bias", "mlp_bias")}
    return kept | {"architectures": ["MistralForCausalLM"], "sliding_window": config.window}


FAMILY = dataclasses.replace(llama.FAMILY, model_type="mistral", read_config=read_config, write_config=write_config)
