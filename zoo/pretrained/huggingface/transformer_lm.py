"""What the families that are a `TransformerLM` have in common."""

import dataclasses
from collections.abc import Collection

from zoo.models.transformer_lm import TransformerLMConfig
from zoo.nn.checks import head_sizes
from zoo.pretrained.huggingface.settings import Settings


def is_tied(settings: Settings, names: Collection[str]) -> bool:
    """Whether the head is the embedding: there is no other in the file, and `config.json` does not ask for one."""
    return "lm_head.weight" not in names and settings.flag("tie_word_embeddings", True)


def canonical(config: TransformerLMConfig) -> TransformerLMConfig:
    """Without what is for training, and with what a default or the rest of a config implies."""
    num_kv_heads, head_size = head_sizes(config.embed_size, config.num_heads, config.num_kv_heads, config.head_size)
    rotary = config.positions == "rotary"
    return dataclasses.replace(
        config,
        num_kv_heads=num_kv_heads,
        head_size=head_size,
        attention_bias=config.attention_bias or ("all" if config.use_bias else "none"),
        use_head_bias=config.use_head_bias and not config.tie_embeddings,
        window=None if config.window is None or config.window >= config.max_length else config.window,
        rotary_base=config.rotary_base if rotary else 10_000.0,
        rotary_factor=config.rotary_factor if rotary else 1.0,
        rotary_bands=config.rotary_bands if rotary and config.rotary_factor != 1.0 else None,
        position_init="normal",
        weight_std=None,
        dropout_p=0.0,
        remat=False,
    )
