"""What the families that are a `TextEncoder` have in common."""

import dataclasses
from collections.abc import Collection
from typing import Any

from zoo.models.abstract_text_encoder import AbstractTextEncoderConfig
from zoo.models.text_encoder import TextEncoderConfig
from zoo.pretrained.huggingface.settings import Settings
from zoo.pretrained.huggingface.sizes import read_sizes, write_sizes

ACTIVATIONS: dict[str, Any] = {"gelu": "gelu", "gelu_new": "gelu_tanh", "relu": "relu", "silu": "silu"}
WORDS = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
POSITION_IDS = r"([\w-]+\.)?embeddings\.position_ids"  # 0, 1, 2, ... in older files


def read_layers(settings: Settings) -> dict[str, Any]:
    """What BERT and RoBERTa call the same, and how many types of tokens there are."""
    settings.only("is_decoder", False)
    settings.only("add_cross_attention", False)
    settings.only("position_embedding_type", "absolute")
    return {
        **read_sizes(settings),
        "num_types": settings.size("type_vocab_size", 2),
        "activation": settings.choice("hidden_act", ACTIVATIONS, "gelu"),
        "norm_epsilon": settings.number("layer_norm_eps", 1e-12),
        "dropout_p": 0.0,
    }


def write_layers(config: TextEncoderConfig) -> dict[str, Any]:
    """The same the other way."""
    return {
        **write_sizes(config),
        "type_vocab_size": config.num_types,
        "hidden_act": WORDS[config.activation],
        "layer_norm_eps": config.norm_epsilon,
    }


def read_head(
    settings: Settings, names: Collection[str], *, masked_lm: str, classifier: str, pooler: str, activation: str
) -> dict[str, Any]:
    """Which head there is, from the names of its tensors; a classifier always has the pooler, another model may."""
    found = {name.removesuffix(".weight") for name in names}
    if any(name.startswith(masked_lm) for name in names):
        return {"head": "masked_lm", "pooler": activation if pooler in found else "none"}
    if classifier in found:
        return {"head": "classifier", "pooler": activation, **_read_classes(settings)}
    return {"head": "none", "pooler": activation if pooler in found else "none"}


def _read_classes(settings: Settings) -> dict[str, Any]:
    labels = settings.part("id2label")
    if labels is None:
        return {"num_classes": settings.size("num_labels", 2)}
    names = [labels.values.get(str(index)) for index in range(len(labels.values))]
    if not names or not all(isinstance(name, str) for name in names):
        raise settings.error("id2label", "names under the keys 0, 1, 2 and so on")
    default = all(name == f"LABEL_{index}" for index, name in enumerate(names))
    return {"num_classes": len(names), "class_names": None if default else tuple(names)}


def write_head(config: AbstractTextEncoderConfig, name: str) -> dict[str, Any]:
    """The architecture, whose name begins with that of the family, and the names of classes."""
    kinds = {"masked_lm": "ForMaskedLM", "classifier": "ForSequenceClassification", "none": "Model"}
    written: dict[str, Any] = {"architectures": [name + kinds[config.head]]}
    if config.num_classes is not None:
        names = config.class_names or [f"LABEL_{index}" for index in range(config.num_classes)]
        written["id2label"] = {str(index): name for index, name in enumerate(names)}
        written["label2id"] = {name: index for index, name in enumerate(names)}
    return written


def canonical(config: Any) -> Any:
    """Without what is for training."""
    return dataclasses.replace(config, dropout_p=0.0, remat=False)
