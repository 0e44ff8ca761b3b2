"""Marian (the OPUS-MT translators): BART with sines and cosines for positions, and without norms after them."""

import dataclasses
from collections.abc import Collection
from typing import Any

from zoo.models.encoder_decoder_config import EncoderDecoderConfig
from zoo.pretrained.huggingface import bart
from zoo.pretrained.huggingface.settings import Settings


def read_config(settings: Settings, names: Collection[str]) -> EncoderDecoderConfig:
    settings.only("normalize_embedding", False)
    settings.only("static_position_embeddings", True)
    settings.only("share_encoder_decoder_embeddings", True)
    return bart.read_config(
        settings, names,
        positions="sinusoidal", position_layout="halves", shared_positions=True, embedding_norm=False,
    )  # fmt: skip


def write_config(config: EncoderDecoderConfig) -> dict[str, Any]:
    padding = config.vocab_size - 1  # in all OPUS-MT models, which begin to write after it
    ids = {"pad_token_id": padding, "decoder_start_token_id": padding}
    return {**bart.write_config(config), "architectures": ["MarianMTModel"], **ids}


FAMILY = dataclasses.replace(
    bart.FAMILY,
    model_type="marian",
    read_config=read_config,
    write_config=write_config,
    ignored=(r"model\.(encoder|decoder)\.embed_positions\.weight",),  # sines and cosines, in older files
    table={
        "embedding": "model.shared",
        **bart.blocks("encoder"),
        **bart.blocks("decoder"),
        "logit_bias": bart.LOGIT_BIAS,
    },
)
