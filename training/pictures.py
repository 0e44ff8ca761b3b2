"""Pictures of what a trained model does."""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from zoo.serialisation import atomic_write


def draw_next_characters(
    path: Path, line: str, probabilities: Float[np.ndarray, "length vocab"], alphabet: str, *, shown: int = 5
) -> None:
    """Below each character of a line, the likeliest next ones; the darker, the likelier, the true one framed.

    Args:
        path: where the picture goes.
        line: the characters that were read.
        probabilities: row i is of what follows character i.
        alphabet: the character of each column.
        shown: how many of the likeliest to show.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.patches import Rectangle

    shown = min(shown, len(alphabet))
    likeliest = np.argsort(-probabilities, axis=1)[:, :shown]
    heat = np.take_along_axis(probabilities, likeliest, axis=1).T
    figure, axes = plt.subplots(figsize=(0.24 * len(line) + 1, 0.3 * shown + 1.2), layout="constrained")
    axes.imshow(heat, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for column, row in np.ndindex(len(line), shown):
        character = alphabet[likeliest[column, row]]
        colour = "white" if heat[row, column] > 0.6 else "black"
        axes.text(column, row, _visible(character), ha="center", va="center", fontsize=8, color=colour)
        if column + 1 < len(line) and line[column + 1] == character:
            corner = (column - 0.5, row - 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="tab:orange", linewidth=1.5))
    axes.set_xticks(range(len(line)), [_visible(character) for character in line], fontsize=9)
    axes.xaxis.tick_top()
    axes.set_yticks([])
    axes.set_title("what was read, and below it the likeliest next characters (framed: what came)", fontsize=9)
    for spine in axes.spines.values():
        spine.set_visible(False)
    atomic_write(path, _png(figure))
    plt.close(figure)


def draw_confusion(
    path: Path, matrix: Int[np.ndarray, "classes classes"], class_names: Sequence[str], *, title: str = ""
) -> None:
    """How many of each class (rows) were taken for which (columns), with the share of the row.

    Args:
        path: where the picture goes.
        matrix: of `training.metrics.confusion_matrix`.
        class_names: a name for each class.
        title: above the picture.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    size = 1.6 + 1.1 * len(class_names)
    figure, axes = plt.subplots(figsize=(size + 0.6, size), layout="constrained")
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*matrix.shape):
        colour = "white" if shares[row, column] > 0.6 else "black"
        text = f"{matrix[row, column]:,}\n{shares[row, column]:.1%}"
        axes.text(column, row, text, ha="center", va="center", color=colour)
    axes.set_xticks(range(len(class_names)), class_names)
    axes.set_yticks(range(len(class_names)), class_names, rotation=90, va="center")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(title, fontsize=10)
    atomic_write(path, _png(figure))
    plt.close(figure)


def draw_attention(
    path: Path, weights: Float[np.ndarray, "target source"], target: Sequence[str], source: Sequence[str]
) -> None:
    """How much each piece of a target (rows) looked at each of its source (columns); the darker, the more.

    Args:
        path: where the picture goes.
        weights: each row sums to 1.
        target, source: the pieces of text.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(0.5 * len(source) + 2, 0.35 * len(target) + 1.2), layout="constrained")
    axes.imshow(weights, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(source)), [text.replace("$", r"\$") for text in source], rotation=60, ha="left")
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(target)), [text.replace("$", r"\$") for text in target])
    atomic_write(path, _png(figure))
    plt.close(figure)


def draw_line(path: Path, x: Sequence[float], y: Sequence[float], *, x_label: str, y_label: str) -> None:
    """One figure against another, such as a score against minutes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(5.4, 3.8), layout="constrained")
    axes.plot(x, y, "o-", markersize=3, color="#c8553d")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    atomic_write(path, _png(figure))
    plt.close(figure)


def _visible(character: str) -> str:
    shown = {" ": "␣", "\n": "⏎", "$": r"\$"}.get(character, character)
    return shown if shown.isprintable() else "·"


def _png(figure: Any) -> bytes:
    """The picture; a character that the font lacks is a box in it, and nothing to warn of."""
    image = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        figure.savefig(image, format="png", dpi=130)
    return image.getvalue()
