"""BART: two tables of positions, whose first two rows belong to no position, and a norm after each."""

import dataclasses
from collections.abc import Collection
from typing import Any

from zoo.models.encoder_decoder import EncoderDecoder
from zoo.models.encoder_decoder_config import EncoderDecoderConfig
from zoo.pretrained.huggingface.family import Family, Place, Table, View, rows
from zoo.pretrained.huggingface.settings import Settings
from zoo.pretrained.huggingface.transformer_lm import is_tied

ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "relu": "relu", "silu": "silu", "swish": "silu"}
WORDS = {"gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu", "silu": "swish"}
LOGIT_BIAS = Place("final_logits_bias", View(lambda array: array[0], lambda shape: (1, *shape)))


def read_config(settings: Settings, names: Collection[str], **changes: Any) -> EncoderDecoderConfig:
    """
    Args:
        settings, names: as in `Family`.
        changes: what another family reads otherwise.
    """
    # Keys of older versions: nothing has read them for long, and all known files have these values.
    for key, value in (("normalize_before", False), ("add_final_layer_norm", False), ("extra_pos_embeddings", 2)):
        settings.only(key, value)
    embed_size, num_layers = settings.size("d_model", 1024), settings.size("encoder_layers", 12)
    num_heads, mlp_size = settings.size("encoder_attention_heads", 16), settings.size("encoder_ffn_dim", 4096)
    settings.only("decoder_attention_heads", num_heads)
    settings.only("decoder_ffn_dim", mlp_size)
    config = {
        "vocab_size": settings.size("vocab_size"),
        "embed_size": embed_size,
        "num_layers": num_layers,
        "num_decoder_layers": settings.size("decoder_layers", 12),
        "num_heads": num_heads,
        "mlp_size": mlp_size,
        "max_length": settings.size("max_position_embeddings", 1024),
        "embed_scale": embed_size**0.5 if settings.flag("scale_embedding", False) else 1.0,
        "activation": settings.choice("activation_function", ACTIVATIONS, "gelu"),
        "use_logit_bias": "final_logits_bias" in names,
        "dropout_p": 0.0,
    }
    if not is_tied(settings, names):
        raise settings.error("tie_word_embeddings", "true")
    return EncoderDecoderConfig.bart(**config | changes)


def write_config(config: EncoderDecoderConfig) -> dict[str, Any]:
    config = canonical(config)
    return {
        "architectures": ["BartForConditionalGeneration"],
        "is_encoder_decoder": True,
        "vocab_size": config.vocab_size,
        "d_model": config.embed_size,
        "encoder_layers": config.num_layers,
        "decoder_layers": config.num_decoder_layers,
        "encoder_attention_heads": config.num_heads,
        "decoder_attention_heads": config.num_heads,
        "encoder_ffn_dim": config.mlp_size,
        "decoder_ffn_dim": config.mlp_size,
        "max_position_embeddings": config.max_length,
        "scale_embedding": config.embed_scale != 1.0,
        "activation_function": WORDS[config.activation],
    }


def canonical(config: EncoderDecoderConfig) -> EncoderDecoderConfig:
    """Without what is for training, and with what a default implies."""
    scale = config.embed_size**0.5 if config.tie_embeddings else 1.0
    return dataclasses.replace(
        config,
        num_decoder_layers=config.num_decoder_layers or config.num_layers,
        embed_scale=scale if config.embed_scale is None else config.embed_scale,
        dropout_p=0.0,
        head_dropout_p=0.0,
        remat=False,
    )


def blocks(side: str) -> Table:
    """Of an encoder or a decoder."""
    ours, theirs = f"{side}_stack.blocks.", f"model.{side}.layers." + "{}."
    attentions = {"attention": "self_attn", "cross_attention": "encoder_attn"}
    projections = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "out_proj"}
    return {
        **{f"{ours}{a}.{p}": f"{theirs}{attentions[a]}.{projections[p]}" for a in attentions for p in projections},
        **{f"{ours}{a}_norm": f"{theirs}{attentions[a]}_layer_norm" for a in attentions},
        f"{ours}mlp.up": f"{theirs}fc1",
        f"{ours}mlp.down": f"{theirs}fc2",
        f"{ours}mlp_norm": f"{theirs}final_layer_norm",
    }


FAMILY = Family(
    model_type="bart",
    model=EncoderDecoder,
    read_config=read_config,
    write_config=write_config,
    canonical=canonical,
    copies=dict.fromkeys(
        ("lm_head.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"),
        "model.shared.weight",
    ),
    ignored=(r"model\.(encoder|decoder)\.version",),
    table={
        "embedding": "model.shared",
        "source_position_embedding": Place("model.encoder.embed_positions", rows(2)),
        "position_embedding": Place("model.decoder.embed_positions", rows(2)),
        "source_embedding_norm": "model.encoder.layernorm_embedding",
        "embedding_norm": "model.decoder.layernorm_embedding",
        **blocks("encoder"),
        **blocks("decoder"),
        "logit_bias": LOGIT_BIAS,
    },
)
