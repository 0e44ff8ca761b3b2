"""RoBERTa: the first two rows of its table of positions belong to no position."""

from collections.abc import Collection
from typing import Any

from zoo.models.text_encoder import TextEncoder, TextEncoderConfig
from zoo.pretrained.huggingface.bert import body
from zoo.pretrained.huggingface.family import Family, Place, Table, rows
from zoo.pretrained.huggingface.settings import Settings
from zoo.pretrained.huggingface.text_encoder import (
    POSITION_IDS,
    canonical,
    read_head,
    read_layers,
    write_head,
    write_layers,
)

FIRST_POSITION = 2  # one after the id of padding


def read_config(settings: Settings, names: Collection[str]) -> TextEncoderConfig:
    settings.only("pad_token_id", FIRST_POSITION - 1)
    prefix = "roberta." if any(name.startswith("roberta.") for name in names) else ""
    head = read_head(
        settings, names,
        masked_lm="lm_head.", classifier="classifier.out_proj", pooler=f"{prefix}pooler.dense", activation="tanh",
    )  # fmt: skip
    if head["head"] == "masked_lm":
        settings.only("hidden_act", "gelu")  # the head's, whatever that of the layers is
    length = settings.size("max_position_embeddings", 512) - FIRST_POSITION
    return TextEncoderConfig(max_length=length, **read_layers(settings), **head)


def write_config(config: TextEncoderConfig) -> dict[str, Any]:
    return {
        **write_head(config, "Roberta"),
        **write_layers(config),
        "max_position_embeddings": config.max_length + FIRST_POSITION,
        "pad_token_id": FIRST_POSITION - 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }


def table(config: TextEncoderConfig) -> Table:
    names = body("roberta.")
    return {
        **names,
        "position_embedding": Place("roberta.embeddings.position_embeddings", rows(FIRST_POSITION)),
        "pooler": "classifier.dense" if config.head == "classifier" else names["pooler"],
        "head": "classifier.out_proj",
        "transform.linear": "lm_head.dense",
        "transform.norm": "lm_head.layer_norm",
        "logit_bias": "lm_head.bias",
    }


FAMILY = Family(
    model_type="roberta",
    model=TextEncoder,
    read_config=read_config,
    write_config=write_config,
    canonical=canonical,
    prefix="roberta.",
    copies={
        "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    },
    ignored=(POSITION_IDS,),
    table=table,
)
