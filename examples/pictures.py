"""What the examples draw of a trained model, beside the curves that every run has."""

import json
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from data.text import split_lines
from training.reporting.plots import write_figure
from zoo import CharRNN
from zoo.text import CharacterTokenizer, Translator


def draw_next_characters(
    path: Path, model: CharRNN, tokenizer: CharacterTokenizer, line: str, *, shown: int = 5
) -> None:
    """Below each character of a line, the likeliest next ones; the darker, the likelier, the true one framed."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    logits, _ = eqx.filter_jit(eqx.nn.inference_mode(model))(jnp.asarray(tokenizer.encode(line)))
    probabilities = np.asarray(jax.nn.softmax(logits))
    likeliest = np.argsort(-probabilities, axis=1)[:, :shown]
    heat = np.take_along_axis(probabilities, likeliest, axis=1).T
    figure = Figure(figsize=(0.24 * len(line) + 1, 0.3 * shown + 1.2), layout="constrained")
    axes = figure.subplots()
    axes.imshow(heat, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in np.ndindex(*heat.shape):
        character = tokenizer.alphabet[likeliest[column, row]]
        colour = "white" if heat[row, column] > 0.6 else "black"
        axes.text(column, row, _visible(character), ha="center", va="center", fontsize=8, color=colour)
        if line[column + 1 : column + 2] == character:
            corner = (column - 0.5, row - 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="tab:orange", linewidth=1.5))
    axes.set_xticks(range(len(line)), [_visible(character) for character in line], fontsize=9)
    axes.xaxis.tick_top()
    axes.set_yticks([])
    axes.set_title("what was read, and below it the likeliest next characters (framed: what came)", fontsize=9)
    axes.spines[:].set_visible(False)
    write_figure(path, figure)


def draw_attention(path: Path, translator: Translator, sentence: str) -> None:
    """Where the last layer looks in the sentence (columns) as it writes each piece (rows), mean of its heads."""
    from matplotlib.figure import Figure

    source = translator.source.encode(translator.normalised(sentence))
    target = translator.target.encode(translator([sentence])[0])
    if not len(target):
        return
    inputs = jnp.asarray([translator.target.start_id, *target.tolist()[:-1]])
    weights = np.asarray(translator.model.cross_attention_weights(jnp.asarray(source), inputs))[-1].mean(axis=0)
    figure = Figure(figsize=(0.5 * len(source) + 2, 0.35 * len(target) + 1.2), layout="constrained")
    axes = figure.subplots()
    axes.imshow(weights, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    read, written = (
        [tokenizer.decode([i]).strip().replace("$", r"\$") for i in ids.tolist()]
        for tokenizer, ids in ((translator.source, source), (translator.target, target))
    )
    axes.set_xticks(range(len(read)), read, rotation=60, ha="left")
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(written)), written)
    write_figure(path, figure)


def draw_bleu(path: Path, timing: Path) -> None:
    """BLEU against minutes."""
    from matplotlib.figure import Figure

    lines = map(json.loads, split_lines(timing.read_text(encoding="utf-8")))
    curve = [(line["minutes"], line["bleu"]) for line in lines if "bleu" in line]
    figure = Figure(figsize=(5.4, 3.8), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*curve, strict=True), "o-", markersize=3, color="#c8553d")
    axes.set(xlabel="minutes", ylabel="BLEU, greedy")
    axes.grid(alpha=0.25, linewidth=0.6)
    write_figure(path, figure)


def _visible(character: str) -> str:
    shown = {" ": "␣", "\n": "⏎", "$": r"\$"}.get(character, character)
    return shown if shown.isprintable() else "·"
