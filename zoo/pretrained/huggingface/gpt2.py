"""GPT-2. Its projections are stored (in, out), and queries, keys and values in one."""

from collections.abc import Collection
from typing import Any

from zoo.models.transformer_lm import TransformerLM, TransformerLMConfig
from zoo.pretrained.huggingface.family import TRANSPOSED, Family, Place, part
from zoo.pretrained.huggingface.settings import Settings
from zoo.pretrained.huggingface.transformer_lm import canonical, is_tied

ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "silu": "silu",
}


def read_config(settings: Settings, names: Collection[str]) -> TransformerLMConfig:
    settings.only("scale_attn_weights", True)
    settings.only("scale_attn_by_inverse_layer_idx", False)
    settings.only("add_cross_attention", False)
    embed_size = settings.size("n_embd", 768)
    return TransformerLMConfig.gpt2(
        vocab_size=settings.size("vocab_size", 50_257),
        embed_size=embed_size,
        num_layers=settings.size("n_layer", 12),
        num_heads=settings.size("n_head", 12),
        mlp_size=settings.size("n_inner", 4 * embed_size),
        max_length=settings.size("n_positions", 1024),
        activation=settings.choice("activation_function", ACTIVATIONS, "gelu_new"),
        norm_epsilon=settings.number("layer_norm_epsilon", 1e-5),
        tie_embeddings=is_tied(settings, names),
        use_head_bias=False,
        dropout_p=0.0,
    )


def write_config(config: TransformerLMConfig) -> dict[str, Any]:
    ours = {value: key for key, value in reversed(ACTIVATIONS.items())}
    return {
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": config.vocab_size,
        "n_embd": config.embed_size,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "n_inner": config.mlp_size,
        "n_positions": config.max_length,
        "activation_function": ours[config.activation],
        "layer_norm_epsilon": config.norm_epsilon,
        "tie_word_embeddings": config.tie_embeddings,
    }


FAMILY = Family(
    model_type="gpt2",
    model=TransformerLM,
    read_config=read_config,
    write_config=write_config,
    canonical=canonical,
    prefix="transformer.",
    copies={"lm_head.weight": "transformer.wte.weight"},
    # Masks, and what scores are set to by them: constants that older files hold.
    ignored=(r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias",),
    table={
        "embedding": "transformer.wte",
        "position_embedding": "transformer.wpe",
        "stack.blocks.attention_norm": "transformer.h.{}.ln_1",
        "stack.blocks.attention.query": Place("transformer.h.{}.attn.c_attn", TRANSPOSED >> part(0, 3)),
        "stack.blocks.attention.key": Place("transformer.h.{}.attn.c_attn", TRANSPOSED >> part(1, 3)),
        "stack.blocks.attention.value": Place("transformer.h.{}.attn.c_attn", TRANSPOSED >> part(2, 3)),
        "stack.blocks.attention.output": Place("transformer.h.{}.attn.c_proj", TRANSPOSED),
        "stack.blocks.mlp_norm": "transformer.h.{}.ln_2",
        "stack.blocks.mlp.up": Place("transformer.h.{}.mlp.c_fc", TRANSPOSED),
        "stack.blocks.mlp.down": Place("transformer.h.{}.mlp.c_proj", TRANSPOSED),
        "final_norm": "transformer.ln_f",
        "head": "lm_head",
    },
)
