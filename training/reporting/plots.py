"""Pictures: a run's losses and accuracies, confusions of classes, similarities of texts, and where a model looks."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from training.reporting.figure_file import plain, write_figure

_TRAIN, _VALIDATION = "#3b6ea8", "#c8553d"
MOST_TEXTS = 40  # rows and columns of a picture of similarities


def draw_curves(history: list[dict[str, Any]], path: str | os.PathLike[str], *, title: str = "") -> None:
    """Draw the loss, and beside it the accuracy if there is one, against the step.

    Single steps are faint dots, with a running mean through them; evaluations are marked, the best of them
    with a ring. An ensemble has a thin line for each member and a thick one for their mean.

    Args:
        history: of `fit`, or the lines of metrics.jsonl.
        path: a .png file, written whole.
        title: above the picture.

    Raises:
        ValueError: the history is empty.
    """
    if not history:
        raise ValueError("history is empty: there is nothing to draw")
    from matplotlib.figure import Figure  # slow to import, and no window is ever opened

    panels = ["loss"] + ["accuracy"] * any(np.any(_column(history, name)[1] > 0) for name in _names("accuracy"))
    figure = Figure(figsize=(5.4 * len(panels), 3.8), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        train, validation = (_column(history, name) for name in _names(panel))
        _draw_training(axes, *train)
        _draw_validation(axes, *validation, ring=panel == "loss")
        if panel == "loss":
            values = np.concatenate([v[np.isfinite(v)].ravel() for _, v in (train, validation)])
            if len(values) and values.min() > 0 and values.max() > 20 * values.min():
                axes.set_yscale("log")  # it falls over more than a decade
            axes.set_ylabel("loss (nats)")
        else:
            axes.set_ylim(-0.02, 1.02)
            axes.set_ylabel("accuracy")
        axes.set_xlabel("step")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False)
    figure.suptitle(title)
    write_figure(path, figure)


def draw_confusion(
    path: str | os.PathLike[str],
    matrix: Int[np.ndarray, "classes classes"],
    class_names: Sequence[str],
    *,
    title: str = "",
) -> None:
    """Draw how many items of each class (rows) were taken for which (columns), and the share of the row.

    Args:
        path: a .png file, written whole.
        matrix: of `training.metrics.confusion_matrix`.
        class_names: of its rows and columns.
        title: above the picture.
    """
    from matplotlib.figure import Figure

    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(5.2, 3.8), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")
    for row, column in np.ndindex(*matrix.shape):
        colour = "white" if shares[row, column] > 0.6 else "black"
        text = f"{matrix[row, column]:,}\n{shares[row, column]:.1%}"
        axes.text(column, row, text, ha="center", va="center", color=colour)
    axes.set_xticks(range(len(class_names)), class_names)
    axes.set_yticks(range(len(class_names)), class_names, rotation=90, va="center")
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(title, fontsize=10)
    write_figure(path, figure)


def draw_similarities(
    path: str | os.PathLike[str],
    values: Float[np.ndarray, "rows columns"],
    rows: Sequence[str],
    columns: Sequence[str],
) -> None:
    """Draw how similar texts are, the darker the more.

    Args:
        path: a .png file, written whole; its folder is made if there is none.
        values: of each pair, -1 to 1.
        rows, columns: the texts, of which the beginnings are shown, and of many the first 40.
    """
    values, rows, columns = values[:MOST_TEXTS, :MOST_TEXTS], rows[:MOST_TEXTS], columns[:MOST_TEXTS]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    _draw_matrix(path, values, rows, columns, of="similarity", cell=0.3, fontsize=7)


def draw_attention(
    path: str | os.PathLike[str],
    weights: Float[np.ndarray, "rows columns"],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str,
) -> None:
    """Draw how much each piece of text (rows) attends to each piece (columns), the darker the more.

    Args:
        path: a .png file, written whole.
        weights: each row's sum to 1.
        rows: the pieces that look.
        columns: what they look at.
        title: what is seen, below the picture.
    """
    cell = 0.35 if max(weights.shape) <= 20 else 0.2
    _draw_matrix(path, weights, rows, columns, of="attention", cell=cell, fontsize=8, title=title)


def _draw_matrix(
    path: str | os.PathLike[str],
    values: Float[np.ndarray, "rows columns"],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    of: str,
    cell: float,
    fontsize: int,
    title: str = "",
) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 + cell * len(columns), 2.4 + cell * len(rows)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_yticks(range(len(rows)), [plain(text) for text in rows], fontsize=fontsize)
    turned: Any = {"rotation": 60, "ha": "left"} if max(map(len, columns)) > 1 else {}
    axes.set_xticks(range(len(columns)), [plain(text) for text in columns], fontsize=fontsize, **turned)
    axes.xaxis.tick_top()
    axes.set_xlabel(title, fontsize=9)
    figure.colorbar(image, ax=axes, shrink=0.6, label=of)
    write_figure(path, figure)


def _names(panel: str) -> tuple[str, str]:
    return panel, f"validation_{panel}"


def _column(
    history: list[dict[str, Any]], name: str
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, "points members"]]:
    """Steps and values of one figure; a null of metrics.jsonl is not a number here."""
    records = [record for record in history if name in record]
    values = np.array([record[name] for record in records], np.float64)
    return np.array([r["step"] for r in records], np.float64), values.reshape(len(records), -1 if records else 1)


def _draw_training(axes: Any, steps: Float[np.ndarray, " n"], values: Float[np.ndarray, "n members"]) -> None:
    if not len(steps):
        return
    window = max(len(steps) // 50, 1)
    kernel = np.ones(window) / window
    smooth = np.stack([np.convolve(member, kernel, mode="valid") for member in values.T], axis=1)
    label = "training" if window == 1 else f"training, mean of {window} steps"
    if window > 1 and values.shape[1] == 1:
        axes.plot(steps, values[:, 0], ".", color=_TRAIN, markersize=2, alpha=0.25)
    _draw_members(axes, steps[window - 1 :], smooth, "-", color=_TRAIN, label=label)


def _draw_validation(
    axes: Any, steps: Float[np.ndarray, " n"], values: Float[np.ndarray, "n members"], *, ring: bool
) -> None:
    if not len(steps):
        return
    _draw_members(axes, steps, values, "o-", color=_VALIDATION, label="validation", markersize=3)
    if ring and values.shape[1] == 1 and np.isfinite(values).any():
        i = int(np.nanargmin(values))
        axes.plot(steps[i], values[i], "o", markersize=9, fillstyle="none", color=_VALIDATION)
        place = {"textcoords": "offset points", "xytext": (0, 9), "ha": "center", "color": _VALIDATION}
        axes.annotate(f"{values[i, 0]:.4g}", (steps[i], values[i, 0]), **place)


def _draw_members(
    axes: Any, steps: Float[np.ndarray, " n"], values: Float[np.ndarray, "n members"], style: str, **looks: Any
) -> None:
    """One line; or a thin one for each member of an ensemble, and their mean (of those that are finite)."""
    if values.shape[1] > 1:
        axes.plot(steps, values, color=looks["color"], linewidth=0.7, alpha=0.4)
    finite = np.isfinite(values)
    total = np.sum(np.where(finite, values, 0.0), axis=1)
    mean = np.where(finite.any(axis=1), total / np.maximum(finite.sum(axis=1), 1), np.nan)
    axes.plot(steps, mean, style, linewidth=1.6, **looks)
