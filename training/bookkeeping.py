"""What `fit` writes down of each step and evaluation, and the end of it all if a number is not finite."""

from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Bool

from training.evaluation import means, on_host, readable
from training.non_finite import NonFiniteError
from training.progress import Progress
from training.run import Run
from training.state import Trainable, TrainState, leaf_name
from training.step import StepReport


class Book:
    """Turns reports into records, one step late, so that the host never waits for the step it just started.

    Args:
        state: the state before training, for the names of its arrays.
        trainable: which leaves are trained.
        run: also writes the records, if there is one.
        progress: shows them.
        history: records made before, if the run goes on.
    """

    def __init__(
        self,
        state: TrainState,
        trainable: Trainable,
        run: Run | None,
        progress: Progress,
        history: list[dict[str, Any]],
    ):
        self.history = history
        self._trained = _names(eqx.filter(state.model, trainable))
        self._inexact = _names(eqx.filter(state.model, eqx.is_inexact_array))
        self._run = run
        self._progress = progress
        self._previous: tuple[int, StepReport] | None = None
        self._lost: set[int] = set()

    def add(self, step: int, report: StepReport) -> None:
        """Read the step before this one, and remember this one."""
        self.read()
        self._previous = (step, report)

    def read(self, *, line: bool = True) -> None:
        """Record the remembered step.

        Args:
            line: show a line if one is due; False when an evaluation follows that will show one.

        Raises:
            NonFiniteError: its loss or gradient is not finite; for an ensemble, that of every member.
        """
        if self._previous is None:
            return
        (step, report), self._previous = self._previous, None
        figures = means(on_host(report.sums))
        norm = np.asarray(report.grad_norm, np.float64)
        self._record({"step": step, **figures, "grad_norm": readable(norm)})
        self._progress.step(figures["loss"])
        self._check(step, np.isfinite(figures["loss"]), "the loss", figures["loss"], report.leaf_norms)
        self._check(step, np.isfinite(norm), "the norm of the gradient", norm, report.leaf_norms)
        if line and step % self._progress.log_every == 0:
            self._progress.line(step)

    def evaluated(self, step: int, figures: dict[str, Any], better: Any, finite: Bool[np.ndarray, "leaves *members"]):
        """Record an evaluation.

        Args:
            step: number of steps made.
            figures: of `evaluate`.
            better: whether it is the best so far; for an ensemble one Bool for each member.
            finite: whether each inexact array of the model is finite.

        Raises:
            NonFiniteError: the validation loss or a weight is not finite; for an ensemble, of every member.
        """
        self._record({"step": step, **{f"validation_{name}": value for name, value in figures.items()}})
        value = figures["loss"]
        best = "" if np.ndim(value) else " (best)" if better else ""
        text = f"  validation loss {np.mean(value):.4f}{best}  accuracy {np.mean(figures['accuracy']):.4f}"
        self._progress.line(step, text)
        self._check(step, np.all(finite, axis=0), "a weight", "not finite", np.where(finite, 0.0, np.nan).T)
        self._check(step, np.isfinite(value), "the validation loss", value, None)

    def _record(self, record: dict[str, Any]) -> None:
        self.history.append(record)
        if self._run is not None:
            self._run.record(record)

    def _check(self, step: int, finite: Any, what: str, value: Any, leaves: Any) -> None:
        finite = np.asarray(finite)
        if finite.all():
            return
        if finite.any():  # one that diverged is a result, too, when the others go on
            for member in sorted(set(np.flatnonzero(~finite).tolist()) - self._lost):
                self._lost.add(member)
                self._progress.write(f"step {step}: {what} of member {member} is not finite; the others go on")
            return
        first = (0,) * finite.ndim
        leaf = None
        if leaves is not None:
            bad = np.flatnonzero(~np.isfinite(np.asarray(leaves)[first]))
            names = self._inexact if what == "a weight" else self._trained
            leaf = names[bad[0]] if len(bad) else None
        shown = value if isinstance(value, str) else f"{float(np.asarray(value)[first])}"
        raise NonFiniteError(step, f"{what} is {shown}", leaf)


def _names(tree: Any) -> list[str]:
    return [leaf_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
