"""What `translate.py` trains, and how: our best, and the tutorial that it comes from, with its way of counting."""

import dataclasses
from typing import Any, Literal

import jax

import zoo
from training import FitResult, SequenceToSequenceLoss, evaluate
from zoo import EncoderDecoderConfig

SEED_LENGTH = 20
"""Tokens that the seed pads or cuts every sentence to."""


@dataclasses.dataclass(frozen=True)
class Preset:
    """The model's arguments, and how it is trained."""

    model: EncoderDecoderConfig
    """Of the preset's own vocabularies; others change `vocab_size` and `source_vocab_size`."""
    min_count: int | None
    """Each side has its own tokens, those that occur so often; None for all of both sides in one vocabulary."""
    bucket_boundaries: tuple[tuple[int, int], ...]
    epochs: int
    learning_rate: float
    warmup_steps: int
    label_smoothing: float
    schedule: Literal["constant", "cosine"]
    b2: float = 0.98
    batch_size: int = 256
    clip_norm: float | None = 1.0
    standardise: bool = False
    """Whether text becomes lower case without punctuation, without being asked to."""
    differs_from_seed: tuple[str, ...] = ()


FEW_PAIRS = 50_000
"""With fewer to learn from, `best` is `few`: a smaller model, more dropout, more epochs."""
_FEW_STEPS, _MOST_EPOCHS = 6_500, 60

PRESETS = {
    "seed": Preset(
        EncoderDecoderConfig(vocab_size=100_277, max_length=SEED_LENGTH), None,
        ((8, 10), (10, 12), (12, 14), (16, 18), (SEED_LENGTH, SEED_LENGTH - 1)), 30, 1e-3, 0, 0.0, "constant",
        b2=0.999, clip_norm=None, standardise=True, differs_from_seed=(
            "padding is masked in attention and has no weight in loss and accuracy; batches are of like lengths",
            "of the 100,277 ids only those that occur have a row: the same model but for rows never trained",
            "start and stop are one id each, not [start] and [end] of two and three tokens",
            "pairs of more than 20 tokens are left out, of the test too, not cut; opening marks are removed whole",
            "no sentence is in two parts of the split, and each epoch has its own order",
            "decoding has caches and no dropout",
            "initial weights: embeddings of unit variance, positions by sines and cosines, small ones of the head",
        ),
    ),
    "best": Preset(
        EncoderDecoderConfig(
            vocab_size=100_277, embed_size=256, num_layers=3, num_decoder_layers=2, num_heads=8, mlp_size=1024,
            max_length=96, positions="sinusoidal", pre_norm=True, tie_embeddings=True, dropout_p=0.2,
            head_dropout_p=0.0,
        ),
        5, ((6, 8), (8, 10), (9, 12), (12, 16), (18, 24), (40, 44)), 18, 1.2e-3, 800, 0.1, "cosine",
        batch_size=128,
    ),
}  # fmt: skip
_MANY = PRESETS["best"].model
_FEW = dataclasses.replace(
    _MANY, embed_size=128, num_layers=4, num_decoder_layers=4, num_heads=4, mlp_size=512, dropout_p=0.3
)
PRESETS["few"] = dataclasses.replace(PRESETS["best"], model=_FEW, learning_rate=3e-3)
NOTES = {
    "What --preset seed does otherwise than the seed": PRESETS["seed"].differs_from_seed,
    f"What --preset best is with fewer than {FEW_PAIRS:,} pairs to learn from": (
        f"{_FEW.num_layers} + {_FEW.num_decoder_layers} layers of width {_FEW.embed_size} with a dropout of "
        f"{_FEW.dropout_p}, in place of {_MANY.num_layers} + {_MANY.num_decoder_layers} of width {_MANY.embed_size} "
        f"with {_MANY.dropout_p}; as many epochs as make {_FEW_STEPS:,} steps, at most {_MOST_EPOCHS}",
    ),
}


def preset_for(name: str, pairs: int) -> Preset:
    """The preset of this name for a model that learns from so many pairs.

    Example:
        >>> [preset_for("best", pairs).epochs for pairs in (100_000, 50_000, 29_000, 1_000)]
        [18, 18, 28, 60]
    """
    if name != "best" or pairs >= FEW_PAIRS:
        return PRESETS[name]
    few = PRESETS["few"]
    epochs = min(max(_FEW_STEPS * few.batch_size // max(pairs, 1), few.epochs), _MOST_EPOCHS)
    return dataclasses.replace(few, epochs=epochs)


def as_the_seed_counts(result: FitResult, batches: Any, pairs: int, sharding: Any) -> dict[str, Any]:
    """Loss and accuracy of the last model, counted as the seed does: over all 100,277 ids, and with padding.

    Rows of ids that don't occur are at their initial values. What follows the stop id is padding, which nobody has to
    predict here: in each of the seed's targets it counts as right, with a loss of 0.
    """
    whole = zoo.rebuild(result.last, vocab_size=PRESETS["seed"].model.vocab_size, key=jax.random.key(0))
    found = evaluate(whole, batches, SequenceToSequenceLoss(), sharding=sharding)
    share = found["weight"] / (pairs * (SEED_LENGTH - 1))  # of targets that are real
    losses = [record["validation_loss"] for record in result.history if "validation_loss" in record]
    return {
        "loss_as_the_seed_counts": found["loss"] * share,
        "accuracy_as_the_seed_counts": 1 - (1 - found["accuracy"]) * share,
        "loss_over_all_ids": found["loss"],
        "loss_with_padding_of_each_epoch": [loss * share for loss in losses],  # over the ids that occur
    }
