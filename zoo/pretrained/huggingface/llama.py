"""Llama 1 to 3, and what is like them: TinyLlama, SmolLM."""

from collections.abc import Collection
from typing import Any

from zoo.models.transformer_lm import TransformerLM, TransformerLMConfig
from zoo.pretrained.huggingface.family import Family
from zoo.pretrained.huggingface.rope import Rope, read_rope, write_rope
from zoo.pretrained.huggingface.settings import Settings
from zoo.pretrained.huggingface.sizes import read_sizes, write_sizes
from zoo.pretrained.huggingface.transformer_lm import canonical, is_tied

ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}


def read_config(settings: Settings, names: Collection[str], **changes: Any) -> TransformerLMConfig:
    """
    Args:
        settings, names: as in `Family`.
        changes: what another family reads otherwise.
    """
    settings.only("rope_interleaved", False)
    rope = read_rope(settings)
    sizes = read_sizes(settings)
    num_heads, head_size = sizes["num_heads"], settings.size("head_dim", None)
    config = {
        **sizes,
        "num_kv_heads": settings.size("num_key_value_heads", num_heads),
        "head_size": None if head_size is None or head_size * num_heads == sizes["embed_size"] else head_size,
        "max_length": settings.size("max_position_embeddings", 2048),
        "rotary_base": rope.base,
        "rotary_factor": rope.factor,
        "rotary_bands": rope.bands,
        "activation": settings.choice("hidden_act", ACTIVATIONS, "silu"),
        "norm_epsilon": settings.number("rms_norm_eps", 1e-6),
        "use_bias": settings.flag("mlp_bias", False),
        "attention_bias": "all" if settings.flag("attention_bias", False) else "none",
        "tie_embeddings": is_tied(settings, names),
    }
    return TransformerLMConfig.llama(**config | changes)


def write_config(config: TransformerLMConfig) -> dict[str, Any]:
    ours = {value: key for key, value in reversed(ACTIVATIONS.items())}
    config = canonical(config)
    return {
        "architectures": ["LlamaForCausalLM"],
        **write_sizes(config),
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_size,
        "max_position_embeddings": config.max_length,
        **write_rope(Rope(config.rotary_base, config.rotary_factor, config.rotary_bands)),
        "hidden_act": ours[config.activation],
        "rms_norm_eps": config.norm_epsilon,
        "mlp_bias": config.use_bias,
        "attention_bias": config.attention_bias == "all",
        "tie_word_embeddings": config.tie_embeddings,
    }


TABLE = {
    "embedding": "model.embed_tokens",
    "stack.blocks.attention_norm": "model.layers.{}.input_layernorm",
    "stack.blocks.attention.query": "model.layers.{}.self_attn.q_proj",
    "stack.blocks.attention.key": "model.layers.{}.self_attn.k_proj",
    "stack.blocks.attention.value": "model.layers.{}.self_attn.v_proj",
    "stack.blocks.attention.output": "model.layers.{}.self_attn.o_proj",
    "stack.blocks.attention.query_norm": "model.layers.{}.self_attn.q_norm",
    "stack.blocks.attention.key_norm": "model.layers.{}.self_attn.k_norm",
    "stack.blocks.mlp_norm": "model.layers.{}.post_attention_layernorm",
    "stack.blocks.mlp.gate": "model.layers.{}.mlp.gate_proj",
    "stack.blocks.mlp.up": "model.layers.{}.mlp.up_proj",
    "stack.blocks.mlp.down": "model.layers.{}.mlp.down_proj",
    "final_norm": "model.norm",
    "head": "lm_head",
}

FAMILY = Family(
    model_type="llama",
    model=TransformerLM,
    read_config=read_config,
    write_config=write_config,
    canonical=canonical,
    prefix="model.",
    copies={"lm_head.weight": "model.embed_tokens.weight"},
    ignored=(r"(model\.)?(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",),  # a constant, in older files
    table=TABLE,
)
