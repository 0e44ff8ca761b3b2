"""Pictures of what a trained model does."""

import io
from pathlib import Path

import numpy as np
from jaxtyping import Float

from zoo.serialisation import write_whole


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
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=130)
    plt.close(figure)
    write_whole(path, image.getvalue())


def _visible(character: str) -> str:
    return {" ": "␣", "\n": "⏎", "$": r"\$"}.get(character, character)
