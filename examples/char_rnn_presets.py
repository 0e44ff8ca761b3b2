"""What `char_rnn.py` trains, and how: our best for each cell, and the tutorial that it comes from."""

import dataclasses
from functools import partial
from typing import Any

import jax

from zoo import CharRNNConfig

ABCD = "abcd..." * 400


@dataclasses.dataclass(frozen=True)
class Preset:
    """What a preset trains: the model, how the text is cut, and for how long."""

    model: CharRNNConfig
    """Of the preset's own text; another text changes `vocab_size`."""
    num_streams: int
    chunk: int
    steps: int
    learning_rate: float
    prompt: str
    optimiser: dict[str, Any]
    """Arguments of `adamw`."""
    part_length: int | None = None
    """Characters that are read from a state of zeros on; by default the whole text."""
    differs_from_seed: tuple[str, ...] = ()


def _model(vocab_size: int, cell: str, hidden_size: int, num_layers: int, dropout_p: float) -> CharRNNConfig:
    fields: Any = {"cell": cell, "hidden_size": hidden_size, "num_layers": num_layers, "dropout_p": dropout_p}
    return CharRNNConfig(vocab_size=vocab_size, **fields)


_TUNED: Any = {"warmup_steps": 50, "clip_norm": 1.0}
PRESETS = {
    "abcd": Preset(_model(5, "rnn", 8, 3, 0.0), 8, 32, 600, 2e-2, "abcd", _TUNED),
    "kafka": Preset(_model(61, "rnn", 128, 3, 0.0), 256, 8, 734, 6e-3, "Gregor", _TUNED),
    # 400 epochs of 10,000 characters, each of them 40 chunks.
    "seed": Preset(
        _model(61, "rnn", 128, 3, 0.0), 1, 256, 16_000, 2e-3, "Gregor",
        {"schedule": "constant", "weight_decay": 1e-7, "decay_mask": partial(jax.tree.map, lambda _: True)},
        part_length=10_000,
        differs_from_seed=(
            "an epoch reads the next 10,000 characters; the seed does not say which",
            "the last chunk of an epoch is padded, and weighs as much as it has characters",
            "softmax and logarithm are one function of the logits",
            "the last tenth of the text is held out, and the best model by it is kept; the loss is that of training",
            "Gutenberg's plain edition has 61 characters, the seed's 64",
            "initial weights: the first layer's make up for the zeros of a one-hot input, the head's are small",
        ),
    ),
    "best": Preset(_model(61, "gru", 512, 1, 0.6), 16, 64, 1200, 6e-3, "Gregor", _TUNED | {"weight_decay": 0.05}),
}  # fmt: skip
# What suits one cell does not suit another.
BEST_OF_CELL = {
    "rnn": dataclasses.replace(PRESETS["best"], model=_model(61, "rnn", 512, 1, 0.4), learning_rate=2e-3),
    "gru": PRESETS["best"],
    "lstm": Preset(_model(61, "lstm", 512, 1, 0.6), 16, 64, 1600, 1e-2, "Gregor", _TUNED | {"weight_decay": 0.1}),
}  # fmt: skip
NOTES = {"What --preset seed does otherwise than the seed": PRESETS["seed"].differs_from_seed}


def preset_of(name: str, cell: str | None) -> Preset:
    """The preset of this name, with the cell that was asked for, or its own."""
    preset = BEST_OF_CELL[cell or "gru"] if name == "best" else PRESETS[name]
    return preset if cell is None else dataclasses.replace(preset, model=dataclasses.replace(preset.model, cell=cell))
