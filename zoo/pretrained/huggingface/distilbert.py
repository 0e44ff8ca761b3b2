"""DistilBERT: no types of tokens, and a pooler with relu that only classifiers have."""

from collections.abc import Collection
from typing import Any

from zoo.models.text_encoder import TextEncoder, TextEncoderConfig
from zoo.pretrained.huggingface.family import Family
from zoo.pretrained.huggingface.settings import Settings
from zoo.pretrained.huggingface.text_encoder import (
    ACTIVATIONS,
    POSITION_IDS,
    WORDS,
    canonical,
    read_head,
    write_head,
)

LAYER = "distilbert.transformer.layer.{}."
NORM_EPSILON = 1e-12


def read_config(settings: Settings, names: Collection[str]) -> TextEncoderConfig:
    return TextEncoderConfig(
        vocab_size=settings.size("vocab_size", 30_522),
        embed_size=settings.size("dim", 768),
        num_layers=settings.size("n_layers", 6),
        num_heads=settings.size("n_heads", 12),
        mlp_size=settings.size("hidden_dim", 4 * 768),
        max_length=settings.size("max_position_embeddings", 512),
        activation=settings.choice("activation", ACTIVATIONS, "gelu"),
        norm_epsilon=NORM_EPSILON,
        dropout_p=0.0,
        **read_head(
            settings, names,
            masked_lm="vocab_", classifier="classifier", pooler="pre_classifier", activation="relu",
        ),
    )  # fmt: skip


def write_config(config: TextEncoderConfig) -> dict[str, Any]:
    return {
        **write_head(config, "DistilBert"),
        "vocab_size": config.vocab_size,
        "dim": config.embed_size,
        "n_layers": config.num_layers,
        "n_heads": config.num_heads,
        "hidden_dim": config.mlp_size,
        "max_position_embeddings": config.max_length,
        "activation": WORDS[config.activation],
    }


FAMILY = Family(
    model_type="distilbert",
    model=TextEncoder,
    read_config=read_config,
    write_config=write_config,
    canonical=canonical,
    prefix="distilbert.",
    copies={"vocab_projector.weight": "distilbert.embeddings.word_embeddings.weight"},
    ignored=(POSITION_IDS,),
    table={
        "embedding": "distilbert.embeddings.word_embeddings",
        "position_embedding": "distilbert.embeddings.position_embeddings",
        "embedding_norm": "distilbert.embeddings.LayerNorm",
        "stack.blocks.attention.query": f"{LAYER}attention.q_lin",
        "stack.blocks.attention.key": f"{LAYER}attention.k_lin",
        "stack.blocks.attention.value": f"{LAYER}attention.v_lin",
        "stack.blocks.attention.output": f"{LAYER}attention.out_lin",
        "stack.blocks.attention_norm": f"{LAYER}sa_layer_norm",
        "stack.blocks.mlp.up": f"{LAYER}ffn.lin1",
        "stack.blocks.mlp.down": f"{LAYER}ffn.lin2",
        "stack.blocks.mlp_norm": f"{LAYER}output_layer_norm",
        "pooler": "pre_classifier",
        "head": "classifier",
        "transform.linear": "vocab_transform",
        "transform.norm": "vocab_layer_norm",
        "logit_bias": "vocab_projector.bias",
    },
)
