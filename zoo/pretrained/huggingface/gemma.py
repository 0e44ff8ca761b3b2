"""Gemma 1. Its norms are stored as the zoo keeps them, less one."""

import dataclasses
from collections.abc import Collection
from typing import Any

from zoo.models.gemma import Gemma, GemmaConfig
from zoo.pretrained.huggingface.family import Family
from zoo.pretrained.huggingface.rope import Rope, read_rope, write_rope
from zoo.pretrained.huggingface.settings import Settings

ACTIVATIONS = ("gelu_pytorch_tanh", "gelu_new")  # two words for one


def read_sizes(settings: Settings, *, head_size: int = 256) -> dict[str, Any]:
    """What all Gemmas have; the fields of our config."""
    settings.only("attention_bias", False)
    settings.only("use_bidirectional_attention", False)
    settings.only("tie_word_embeddings", True)
    return {
        "vocab_size": settings.size("vocab_size"),
        "embed_size": settings.size("hidden_size"),
        "num_layers": settings.size("num_hidden_layers"),
        "num_heads": settings.size("num_attention_heads"),
        "num_kv_heads": settings.size("num_key_value_heads"),
        "head_size": settings.size("head_dim", head_size),
        "mlp_size": settings.size("intermediate_size"),
        "max_length": settings.size("max_position_embeddings", 8192),
        "norm_epsilon": settings.number("rms_norm_eps", 1e-6),
    }


def write_sizes(config: GemmaConfig) -> dict[str, Any]:
    """The same the other way."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.embed_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_size,
        "intermediate_size": config.mlp_size,
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
    rope = read_rope(settings)
    return GemmaConfig(**read_sizes(settings), rotary_base=rope.base, rotary_factor=rope.factor)


def write_config(config: GemmaConfig) -> dict[str, Any]:
    return {
        "architectures": ["GemmaForCausalLM"],
        **write_sizes(config),
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


TABLE = {
    "embedding": "model.embed_tokens",
    "stack.blocks.attention_norm": "model.layers.{}.input_layernorm",
    "stack.blocks.attention.query": "model.layers.{}.self_attn.q_proj",
    "stack.blocks.attention.key": "model.layers.{}.self_attn.k_proj",
    "stack.blocks.attention.value": "model.layers.{}.self_attn.v_proj",
    "stack.blocks.attention.output": "model.layers.{}.self_attn.o_proj",
    "stack.blocks.mlp_norm": "model.layers.{}.post_attention_layernorm",
    "stack.blocks.mlp.gate": "model.layers.{}.mlp.gate_proj",
    "stack.blocks.mlp.up": "model.layers.{}.mlp.up_proj",
    "stack.blocks.mlp.down": "model.layers.{}.mlp.down_proj",
    "final_norm": "model.norm",
}

FAMILY = Family(
    model_type="gemma",
    model=Gemma,
    read_config=read_config,
    write_config=write_config,
    canonical=canonical,
    prefix="model.",
    copies={"lm_head.weight": "model.embed_tokens.weight"},
    ignored=(r"(model\.)?(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",),  # a constant, in older files
    table=TABLE,
)
