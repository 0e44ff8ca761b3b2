"""BERT, and what is like it: MiniLM and most encoders of sentences."""

from collections.abc import Collection
from typing import Any

from zoo.models.text_encoder import TextEncoder, TextEncoderConfig
from zoo.pretrained.huggingface.family import Family, Table
from zoo.pretrained.huggingface.settings import Settings
from zoo.pretrained.huggingface.text_encoder import (
    POSITION_IDS,
    canonical,
    read_head,
    read_layers,
    write_head,
    write_layers,
)


def read_config(settings: Settings, names: Collection[str]) -> TextEncoderConfig:
    prefix = "bert." if any(name.startswith("bert.") for name in names) else ""
    head = read_head(
        settings, names,
        masked_lm="cls.predictions.", classifier="classifier", pooler=f"{prefix}pooler.dense", activation="tanh",
    )  # fmt: skip
    return TextEncoderConfig(
        max_length=settings.size("max_position_embeddings", 512), **read_layers(settings), **head
    )


def write_config(config: TextEncoderConfig) -> dict[str, Any]:
    return {**write_head(config, "Bert"), **write_layers(config), "max_position_embeddings": config.max_length}


def body(prefix: str) -> Table:
    """The names that BERT and RoBERTa share, after their prefixes."""
    layer = prefix + "encoder.layer.{}."
    return {
        "embedding": f"{prefix}embeddings.word_embeddings",
        "position_embedding": f"{prefix}embeddings.position_embeddings",
        "type_embedding": f"{prefix}embeddings.token_type_embeddings",
        "embedding_norm": f"{prefix}embeddings.LayerNorm",
        "stack.blocks.attention.query": f"{layer}attention.self.query",
        "stack.blocks.attention.key": f"{layer}attention.self.key",
        "stack.blocks.attention.value": f"{layer}attention.self.value",
        "stack.blocks.attention.output": f"{layer}attention.output.dense",
        "stack.blocks.attention_norm": f"{layer}attention.output.LayerNorm",
        "stack.blocks.mlp.up": f"{layer}intermediate.dense",
        "stack.blocks.mlp.down": f"{layer}output.dense",
        "stack.blocks.mlp_norm": f"{layer}output.LayerNorm",
        "pooler": f"{prefix}pooler.dense",
    }


FAMILY = Family(
    model_type="bert",
    model=TextEncoder,
    read_config=read_config,
    write_config=write_config,
    canonical=canonical,
    prefix="bert.",
    renamed={"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"},
    copies={
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    # The second head of files from pretraining, which says whether two sentences follow one another.
    ignored=(POSITION_IDS, r"cls\.seq_relationship\.(weight|bias)"),
    table={
        **body("bert."),
        "head": "classifier",
        "transform.linear": "cls.predictions.transform.dense",
        "transform.norm": "cls.predictions.transform.LayerNorm",
        "logit_bias": "cls.predictions.bias",
    },
)
