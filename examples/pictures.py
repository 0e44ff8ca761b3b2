"""What the examples draw of a trained model, beside the curves that every run has."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from data.text import split_lines
from training.reporting.figure_file import plain, write_figure
from training.reporting.plots import draw_attention
from zoo import CharRNN
from zoo.text import CharacterTokenizer, Tokenizer, Translator


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
    image = axes.imshow(heat, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    figure.colorbar(image, ax=axes, label="probability", pad=0.01)
    for row, column in np.ndindex(*heat.shape):
        character = tokenizer.alphabet[likeliest[column, row]]
        colour = "white" if heat[row, column] > 0.6 else "black"
        axes.text(column, row, plain(character), ha="center", va="center", fontsize=8, color=colour)
        if line[column + 1 : column + 2] == character:
            corner = (column - 0.5, row - 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="tab:orange", linewidth=1.5))
    axes.set_xticks(range(len(line)), [plain(character) for character in line], fontsize=9)
    axes.xaxis.tick_top()
    axes.set_yticks([])
    axes.set_title("what was read, and below it the likeliest next characters (framed: what came)", fontsize=9)
    axes.spines[:].set_visible(False)
    write_figure(path, figure)


def draw_translation(path: Path, translator: Translator, sentence: str, translation: str) -> None:
    """Where the last layer looks in a sentence (columns) as it writes each piece (rows), mean of its heads."""
    source = translator.source.encode(translator.normalised(sentence))
    target = translator.target.encode(translation)
    if not len(target):
        return
    start = (*translator.model.config.start_ids, translator.target.start_id)[0]
    inputs = jnp.asarray([start, *target.tolist()[:-1]])
    weights = translator.model.cross_attention_weights(jnp.asarray(source), inputs)[-1].mean(axis=0)
    rows, columns = _pieces(translator.target, target), _pieces(translator.source, source)
    draw_attention(path, np.asarray(weights), rows, columns, title="where each written piece looks in the source")


def draw_looks(path: Path, model: Any, tokenizer: Tokenizer, text: str, *, most: int = 40) -> None:
    """Where each token of a text looks in it (columns) in the last layer, mean of its heads.

    Args:
        path: a .png file.
        model: with `attention_weights`, such as a `TransformerLM` or a `TransformerClassifier`.
        tokenizer: of its ids.
        text: of which the first tokens are shown.
        most: how many.
    """
    ids = tokenizer.encode(text)[:most]
    weights = eqx.filter_jit(type(model).attention_weights)(model, jnp.asarray(ids))[-1].mean(axis=0)
    pieces = _pieces(tokenizer, ids)
    draw_attention(path, np.asarray(weights), pieces, pieces, title="where each token (row) looks in the text")


def draw_bleu(path: Path, timing: Path) -> None:
    """BLEU against minutes, from the second time on that it was measured."""
    from matplotlib.figure import Figure

    lines = map(json.loads, split_lines(timing.read_text(encoding="utf-8")))
    curve = [(line["minutes"], line["bleu"]) for line in lines if "bleu" in line]
    if len(curve) < 2:
        return
    figure = Figure(figsize=(5.4, 3.8), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*curve, strict=True), "o-", markersize=3, color="#c8553d")
    axes.set(xlabel="minutes", ylabel="BLEU, greedy")
    axes.grid(alpha=0.25, linewidth=0.6)
    write_figure(path, figure)


def _pieces(tokenizer: Tokenizer, ids: Sequence[int] | np.ndarray) -> list[str]:
    """What each id stands for in a text."""
    return [tokenizer.decode([int(i)]) for i in ids]
