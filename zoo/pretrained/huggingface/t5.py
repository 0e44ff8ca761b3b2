"""T5 and Flan-T5. The bias of distances is stored with the first block of each side."""

import dataclasses
from collections.abc import Collection
from typing import Any

from zoo.models.t5 import T5, T5Config
from zoo.pretrained.huggingface.family import Family, Table
from zoo.pretrained.huggingface.settings import Settings

# As `feed_forward_proj` has them; "gated-gelu" has always been the approximation.
ACTIVATIONS: dict[str, tuple[Any, bool]] = {
    "relu": ("relu", False),
    "gelu": ("gelu", False),
    "gelu_new": ("gelu_tanh", False),
    "silu": ("silu", False),
    "gated-relu": ("relu", True),
    "gated-gelu": ("gelu_tanh", True),
    "gated-silu": ("silu", True),
}


def read_config(settings: Settings, names: Collection[str]) -> T5Config:
    activation, gated = settings.choice("feed_forward_proj", ACTIVATIONS, "relu")
    # Since transformers 5 a key of its own; before, what is not tied was not scaled.
    scaled = settings.flag("scale_decoder_outputs", settings.flag("tie_word_embeddings", True))
    return T5Config(
        vocab_size=settings.size("vocab_size", 32_128),
        embed_size=settings.size("d_model", 512),
        num_layers=settings.size("num_layers", 6),
        num_decoder_layers=settings.size("num_decoder_layers", settings.size("num_layers", 6)),
        num_heads=settings.size("num_heads", 8),
        head_size=settings.size("d_kv", 64),
        mlp_size=settings.size("d_ff", 2048),
        num_buckets=settings.size("relative_attention_num_buckets", 32),
        max_distance=settings.size("relative_attention_max_distance", 128),
        activation=activation,
        gated=gated,
        tie_embeddings="lm_head.weight" not in names,
        scale_hidden=scaled,
        norm_epsilon=settings.number("layer_norm_epsilon", 1e-6),
        dropout_p=0.0,
    )


def write_config(config: T5Config) -> dict[str, Any]:
    words = {value: key for key, value in ACTIVATIONS.items()}
    return {
        "architectures": ["T5ForConditionalGeneration"],
        "is_encoder_decoder": True,
        "vocab_size": config.vocab_size,
        "d_model": config.embed_size,
        "num_layers": config.num_layers,
        "num_decoder_layers": config.num_decoder_layers or config.num_layers,
        "num_heads": config.num_heads,
        "d_kv": config.head_size,
        "d_ff": config.mlp_size,
        "relative_attention_num_buckets": config.num_buckets,
        "relative_attention_max_distance": config.max_distance,
        "feed_forward_proj": words[config.activation, config.gated],
        "tie_word_embeddings": config.tie_embeddings,
        "scale_decoder_outputs": config.scale_hidden,
        "layer_norm_epsilon": config.norm_epsilon,
    }


def canonical(config: T5Config) -> T5Config:
    """Without what is for training, and with what a default implies."""
    layers = config.num_decoder_layers or config.num_layers
    return dataclasses.replace(config, num_decoder_layers=layers, dropout_p=0.0, remat=False)


def table(config: T5Config) -> Table:
    return {
        "embedding": "shared",
        **side("encoder", {"attention": "SelfAttention"}, gated=config.gated),
        **side("decoder", {"attention": "SelfAttention", "cross_attention": "EncDecAttention"}, gated=config.gated),
        "head": "lm_head",
    }


def side(name: str, attentions: dict[str, str], *, gated: bool) -> Table:
    """Of the encoder or the decoder, whose blocks number their parts."""
    ours, theirs, mlp = f"{name}_stack.blocks.", f"{name}.block." + "{}.layer.", len(attentions)
    found = {
        f"{name}_bias": f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias",
        f"{name}_norm": f"{name}.final_layer_norm",
        f"{ours}mlp_norm": f"{theirs}{mlp}.layer_norm",
        f"{ours}mlp.up": f"{theirs}{mlp}.DenseReluDense.{'wi_1' if gated else 'wi'}",
        f"{ours}mlp.gate": f"{theirs}{mlp}.DenseReluDense.wi_0",
        f"{ours}mlp.down": f"{theirs}{mlp}.DenseReluDense.wo",
    }
    for part, (attention, their_attention) in enumerate(attentions.items()):
        found[f"{ours}{attention}_norm"] = f"{theirs}{part}.layer_norm"
        for projection, letter in {"query": "q", "key": "k", "value": "v", "output": "o"}.items():
            found[f"{ours}{attention}.{projection}"] = f"{theirs}{part}.{their_attention}.{letter}"
    return found


FAMILY = Family(
    model_type="t5",
    model=T5,
    read_config=read_config,
    write_config=write_config,
    canonical=canonical,
    copies=dict.fromkeys(
        ("lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"), "shared.weight"
    ),
    # A table that old files have and no version has used.
    ignored=(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",),
    table=table,
)
