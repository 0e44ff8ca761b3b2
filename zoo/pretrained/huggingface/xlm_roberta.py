"""XLM-R: RoBERTa for a hundred languages."""

import dataclasses
from typing import Any

from zoo.models.text_encoder import TextEncoderConfig
from zoo.pretrained.huggingface import roberta
from zoo.pretrained.huggingface.text_encoder import write_head


def write_config(config: TextEncoderConfig) -> dict[str, Any]:
    return {**roberta.write_config(config), **write_head(config, "XLMRoberta")}


FAMILY = dataclasses.replace(roberta.FAMILY, model_type="xlm-roberta", write_config=write_config)
