"""What `imdb_classifier.py` trains, and how: for each model our best, and the tutorial that it comes from."""

import dataclasses
from typing import Any, Literal

import optax

from data.ragged import Truncation
from training import adamw
from zoo import TextConvNetConfig, TransformerClassifierConfig
from zoo.text import WordTokenizer


@dataclasses.dataclass(frozen=True)
class Preset:
    """How texts become ids, the model's arguments, and how it is trained."""

    tokenizer: Literal["words", "gpt2"]
    max_tokens: int
    truncation: Truncation
    bucket_boundaries: tuple[int, ...]
    model: TransformerClassifierConfig | TextConvNetConfig
    """With the most words that a vocabulary of words takes; one of byte pairs is compacted to those that occur."""
    epochs: int
    learning_rate: float
    schedule: Literal["constant", "cosine"] = "cosine"
    """Cosine after a tenth of the steps as warm-up."""
    clip_norm: float | None = 1.0
    batch_size: int = 128
    width: int | None = None
    """Of the widest models that `learning_rate` is for; None if it is for all."""
    differs_from_seed: tuple[str, ...] = ()

    def rate_of(self, model: Any) -> float:
        """The learning rate of a model: the wider it is, the smaller are the steps that Adam may make.

        Beyond `width` in inverse proportion (Yang et al., 2022, arXiv:2203.03466).
        """
        return self.learning_rate * (min(self.width / model.config.embed_size, 1) if self.width else 1)

    def make_optimiser(self, learning_rate: float, steps: int) -> optax.GradientTransformation:
        """AdamW for so many steps."""
        return adamw(
            learning_rate,
            total_steps=steps,
            warmup_steps=0 if self.schedule == "constant" else steps // 10,
            schedule=self.schedule,
            clip_norm=self.clip_norm,
        )


# Both drop whole words, and entries of all word vectors together, without which they learn the reviews by heart.
_DROPPED: Any = {"unknown_id": WordTokenizer.unknown_id, "channel_dropout_p": 0.3}
_NGRAMS: Any = {"ngram_orders": (1, 2, 3), "ngram_buckets": 2**22, "ngram_size": 4}
_BEST_CONVNET = TextConvNetConfig(
    vocab_size=30_000, num_classes=2, embed_size=80, num_filters=64, branches=(((2, 1),), ((3, 1),), ((4, 1),)),
    use_norm=False, pool_embedding=True, hidden_size=None, embedding_dropout_p=0.0, dropout_p=0.5,
    token_dropout_p=0.25, **_DROPPED, **_NGRAMS,
)  # fmt: skip
_BEST_TRANSFORMER = TransformerClassifierConfig(
    vocab_size=30_000, num_classes=2, embed_size=16, num_layers=1, num_heads=2, mlp_size=32, max_length=512,
    positions="none", pre_norm=True, pooling="mean", hidden_size=None, dropout_p=0.3, head_dropout_p=0.5,
    token_dropout_p=0.2, **_DROPPED, **_NGRAMS,
)  # fmt: skip
_SEED_CONVNET = TextConvNetConfig(vocab_size=50_257, num_classes=2, padding="SAME", norm_epsilon=1e-6)
_SEED_TRANSFORMER = TransformerClassifierConfig(vocab_size=20_000, num_classes=2)
_BOTH_DIFFER = (
    "padding stands on the right, has an id of its own, and is masked",
    "2,500 of the 25,000 training reviews choose the best epoch; the last one is reported, too",
    "the initial weights of the last layer are a tenth of the seed's",
)
PRESETS = {
    ("transformer", "best"): Preset("words", 512, "both", (128, 192, 288, 512), _BEST_TRANSFORMER, 4, 2e-3),
    ("convnet", "best"): Preset("words", 512, "both", (128, 192, 288, 512), _BEST_CONVNET, 5, 2e-3),
    ("transformer", "seed"): Preset(
        "words", 200, "tail", (200,), _SEED_TRANSFORMER, 10, 1e-4, "constant", None, differs_from_seed=(
            "softmax is applied once, in the loss, not in the model as well",
            "words and their ids are made from the reviews, without --keras-ids",
            *_BOTH_DIFFER,
        ),
    ),
    ("convnet", "seed"): Preset(
        "gpt2", 500, "head", (500,), _SEED_CONVNET, 10, 5e-4, "constant", None, differs_from_seed=(
            "class 0 is negative and 1 positive; in the seed of the ConvNet 0 is positive",
            "of GPT-2's 50,257 tokens only those that occur have a row: the same model but for rows never trained",
            "<br /> is read as the end of a line; windows are placed by a text's length, not always by 500",
            *_BOTH_DIFFER,
        ),
    ),
}  # fmt: skip
# Of a model that was trained before; longer texts than IMDB's mean would cost more than they bring.
_FINE_TUNED: Any = {
    "max_tokens": 256, "truncation": "both", "bucket_boundaries": (64, 128, 192, 256), "epochs": 1, "batch_size": 32,
    "learning_rate": 5e-3, "width": 128, "schedule": "cosine", "clip_norm": 1.0, "differs_from_seed": (),
}  # fmt: skip
TRIED = 500  # texts of each part in a trial (--smoke)
_TRIAL: Any = {"max_tokens": 64, "bucket_boundaries": (64,)}  # one length, so that little is compiled
NOTES = {
    f"What --model {model} --preset seed does otherwise than the seed": preset.differs_from_seed
    for (model, name), preset in PRESETS.items()
    if name == "seed"
}


def preset_of(name: tuple[str, str], *, further: bool, trial: bool) -> Preset:
    """How a model is trained: by its preset, of which less holds if it was trained before or if this is a trial."""
    changes = (_FINE_TUNED if further else {}) | (_TRIAL if trial else {})
    return dataclasses.replace(PRESETS[name], **changes)
