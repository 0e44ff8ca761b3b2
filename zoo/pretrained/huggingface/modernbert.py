"""ModernBERT. Queries, keys and values are stored in one, and so are the two halves of the feed-forward layer."""

from collections.abc import Collection
from typing import Any

from zoo.models.modern_bert import ModernBert, ModernBertConfig
from zoo.pretrained.huggingface.family import Family, Place, Table, part
from zoo.pretrained.huggingface.rope import read_scaling
from zoo.pretrained.huggingface.settings import Settings
from zoo.pretrained.huggingface.text_encoder import ACTIVATIONS, WORDS, canonical, read_head, write_head

POOLINGS: dict[str, Any] = {"cls": "first", "mean": "mean"}
KINDS = ("full_attention", "sliding_attention")


def read_config(settings: Settings, names: Collection[str]) -> ModernBertConfig:
    for key in ("norm_bias", "attention_bias", "mlp_bias", "classifier_bias"):
        settings.only(key, False)
    settings.only("decoder_bias", True)
    settings.only("classifier_activation", settings.values.get("hidden_activation", "gelu"))
    head = read_head(
        settings, names, masked_lm="decoder.", classifier="classifier", pooler="head.dense", activation="none"
    )
    del head["pooler"]
    num_layers = settings.size("num_hidden_layers", 22)
    return ModernBertConfig(
        vocab_size=settings.size("vocab_size", 50_368),
        embed_size=settings.size("hidden_size", 768),
        num_layers=num_layers,
        num_heads=settings.size("num_attention_heads", 12),
        mlp_size=settings.size("intermediate_size", 1152),
        max_length=settings.size("max_position_embeddings", 8192),
        window=settings.size("local_attention", 128),
        global_every=read_global_every(settings, num_layers),
        **read_bases(settings),
        pooling=settings.choice("classifier_pooling", POOLINGS, "cls"),
        activation=settings.choice("hidden_activation", ACTIVATIONS, "gelu"),
        norm_epsilon=settings.number("norm_eps", 1e-5),
        **head,
    )


def read_bases(settings: Settings) -> dict[str, float]:
    """Of global and of local layers: in one object for each kind (transformers 5), or in keys of their own."""
    none = Settings({}, settings.where)
    of_global, of_local = ((settings.part("rope_parameters") or none).part(kind) or none for kind in KINDS)
    rope = read_scaling(of_global, settings.number("global_rope_theta", 160_000.0))
    local = read_scaling(of_local, settings.number("local_rope_theta", 10_000.0))
    if (rope.factor, local.factor) != (1.0, 1.0):
        raise settings.error("rope_parameters", "of type default for us to read it")
    return {"rotary_base": rope.base, "local_rotary_base": local.base}


def read_global_every(settings: Settings, num_layers: int) -> int:
    """As one number (transformers 4), or out of a list of the layers' kinds."""
    kinds = settings.values.get("layer_types")
    if kinds is None:
        return settings.size("global_attn_every_n_layers", 3)
    for every in range(1, num_layers + 1):
        if kinds == [KINDS[layer % every > 0] for layer in range(num_layers)]:
            return every
    raise settings.error("layer_types", "full_attention every so many layers from the first one on")


def write_config(config: ModernBertConfig) -> dict[str, Any]:
    poolings = {ours: theirs for theirs, ours in POOLINGS.items()}
    return {
        **write_head(config, "ModernBert"),
        "vocab_size": config.vocab_size,
        "hidden_size": config.embed_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.mlp_size,
        "max_position_embeddings": config.max_length,
        "local_attention": config.window,
        "global_attn_every_n_layers": config.global_every,
        "global_rope_theta": config.rotary_base,
        "local_rope_theta": config.local_rotary_base,
        "classifier_pooling": poolings[config.pooling],
        "hidden_activation": WORDS[config.activation],
        "classifier_activation": WORDS[config.activation],
        "norm_eps": config.norm_epsilon,
        "pad_token_id": min(50_283, config.vocab_size - 1),
    }


def block(ours: str, layer: str, first: int) -> Table:
    """Of the first block, or of the others, of which `first` is the number of the first one."""
    qkv, up = f"model.layers.{layer}.attn.Wqkv", f"model.layers.{layer}.mlp.Wi"
    return {
        f"{ours}.attention_norm": Place(f"model.layers.{layer}.attn_norm", first=first),
        **{f"{ours}.attention.{p}": Place(qkv, part(i, 3), first) for i, p in enumerate(("query", "key", "value"))},
        f"{ours}.attention.output": Place(f"model.layers.{layer}.attn.Wo", first=first),
        f"{ours}.mlp_norm": Place(f"model.layers.{layer}.mlp_norm", first=first),
        f"{ours}.mlp.gate": Place(up, part(0, 2), first),
        f"{ours}.mlp.up": Place(up, part(1, 2), first),
        f"{ours}.mlp.down": Place(f"model.layers.{layer}.mlp.Wo", first=first),
    }


FAMILY = Family(
    model_type="modernbert",
    model=ModernBert,
    read_config=read_config,
    write_config=write_config,
    canonical=canonical,
    prefix="model.",
    copies={"decoder.weight": "model.embeddings.tok_embeddings.weight"},
    table={
        "embedding": "model.embeddings.tok_embeddings",
        "embedding_norm": "model.embeddings.norm",
        **block("first_block", "0", 0),
        **block("stack.blocks", "{}", 1),
        "final_norm": "model.final_norm",
        "transform.linear": "head.dense",
        "transform.norm": "head.norm",
        "logit_bias": "decoder.bias",
        "head": "classifier",
    },
)
