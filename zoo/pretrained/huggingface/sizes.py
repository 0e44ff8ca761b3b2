"""The sizes that most families call the same in `config.json`."""

from typing import Any

from zoo.pretrained.huggingface.settings import Settings

NAMES = {
    "vocab_size": "vocab_size",
    "embed_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "mlp_size": "intermediate_size",
}


def read_sizes(settings: Settings) -> dict[str, Any]:
    """Fields of our configs."""
    return {ours: settings.size(theirs) for ours, theirs in NAMES.items()}


def write_sizes(config: Any) -> dict[str, Any]:
    """The same the other way."""
    return {theirs: getattr(config, ours) for ours, theirs in NAMES.items()}
