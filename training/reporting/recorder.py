"""What `fit` writes down of each step and evaluation, and the end of it all if a number is not finite."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from training.devices.sharding import on_host
from training.errors import NonFiniteError, WrongIdError
from training.losses import Batch
from training.reporting.progress import ProgressBar
from training.reporting.run import Run
from training.state import TrainState, named_leaves
from training.step import StepReport

Log = Callable[[int, dict[str, Any]], object]
"""Called with a step and its figures by name, or an evaluation's: numbers, or lists of them for an ensemble."""


class MetricsRecorder:
    """Turns reports into records, one step late, so that the host never waits for the step it just started.

    Args:
        state: the state before training, for the names of its arrays.
        progress: shows them.
        history: records made before, if the run resumes; new ones are added to it.
        run: also writes the records, if there is one.
        log: called with each record, if there is one.
    """

    def __init__(
        self,
        state: TrainState,
        progress: ProgressBar,
        history: list[dict[str, Any]],
        run: Run | None,
        log: Log | None,
    ):
        self._trained = [name for name, _ in named_leaves(state.split_model()[0])]
        self._progress = progress
        self._history = history
        self._run = run
        self._log = log
        self._previous: tuple[int, StepReport, Batch] | None = None
        self._id_sizes = id_sizes(state.model)
        self._lost: set[int] = set()

    def add(self, step: int, report: StepReport, batch: Batch) -> None:
        """Read the step before this one, and remember this one, and its batch in case that it went wrong."""
        self.read()
        self._previous = (step, report, batch)

    def read(self, *, line: bool = True) -> None:
        """Record the remembered step.

        Args:
            line: show a line if one is due; False when an evaluation follows that will show one.

        Raises:
            NonFiniteError: its loss or gradient is not finite; for an ensemble, that of every member.
        """
        if self._previous is None:
            return
        (step, report, batch), self._previous = self._previous, None
        figures = report.figures()
        self._record(step, figures)
        # Every target of a sequence is a token; a label is none.
        tokens = float(np.max(np.asarray(report.sums.weight))) if "targets" in _columns(batch) else 0.0
        self._progress.step(figures["loss"], tokens)
        for name, what in (("loss", "the loss"), ("grad_norm", "the norm of the gradient")):
            self._check(step, np.isfinite(figures[name]), what, figures[name], report.leaf_norms, [batch])
        if line and self._progress.is_due(step):
            self._progress.line(step)

    def evaluated(
        self, step: int, figures: dict[str, Any], better: Any, finite: Any, batches: Iterable[Batch] = ()
    ) -> None:
        """Record an evaluation after a step.

        Args:
            step: number of steps made.
            figures, better, finite: as `Evaluator.evaluate` gives them.
            batches: what was evaluated on.

        Raises:
            NonFiniteError: the validation loss or a weight is not finite; for an ensemble, of every member.
        """
        self._record(step, {f"validation_{name}": value for name, value in figures.items()})
        value = figures["loss"]
        best = "" if np.ndim(value) else " (best)" if better else ""
        text = f"  validation loss {np.mean(value):.4f}{best}  accuracy {np.mean(figures['accuracy']):.4f}"
        self._progress.line(step, text)
        finite = np.asarray(finite)
        self._check(step, np.all(finite, axis=0), "a weight", "not finite", np.where(finite, 0.0, np.nan).T, ())
        self._check(step, np.isfinite(value), "the validation loss", value, None, batches)

    def sample(self, step: int, text: str | None) -> None:
        """Show and keep what the model said after a step, if anything."""
        if text:
            self._progress.write(text)
        if text and self._run is not None:
            self._run.sample(step, text)

    def _record(self, step: int, figures: dict[str, Any]) -> None:
        self._history.append({"step": step, **figures})
        if self._run is not None:
            self._run.log(step, figures)
        if self._log is not None:
            self._log(step, figures)

    def _check(self, step: int, finite: Any, what: str, value: Any, leaves: Any, batches: Iterable[Batch]) -> None:
        finite = np.asarray(finite)
        if finite.all():
            return
        if finite.any():  # one that diverged is a result, too, when the others continue
            for member in sorted(set(np.flatnonzero(~finite).tolist()) - self._lost):
                self._lost.add(member)
                self._progress.write(f"step {step}: {what} of member {member} is not finite; the others continue")
            return
        first = (0,) * finite.ndim
        leaf = None
        if leaves is not None:
            bad = np.flatnonzero(~np.isfinite(np.asarray(leaves)[first]))
            leaf = self._trained[bad[0]] if len(bad) else None
        shown = value if isinstance(value, str) else f"{float(np.asarray(value)[first])}"
        wrong = first_wrong_id(self._id_sizes, batches)
        if wrong is not None:
            raise WrongIdError(step, f"{what} is {shown}", leaf, wrong)
        raise NonFiniteError(step, f"{what} is {shown}", leaf)


# Which id of a batch a model does not know is asked only when a loss is not finite, so that no step pays for it.
# The columns of this package's losses, and what says how many ids each may have: the first of these that there is.
_SIZES = {
    "inputs": ("vocab_size",),
    "tokens": ("vocab_size",),
    "source": ("source_vocab_size", "vocab_size"),
    "targets": ("vocab_size",),
    "labels": ("num_classes",),
}


def id_sizes(model: Any) -> dict[str, int]:
    """How many ids a model knows, for each column; a model says it in its config or by itself, or it is not known."""
    owners = (getattr(model, "config", None), model)
    found = {}
    for column, names in _SIZES.items():
        sizes = [getattr(owner, name, None) for name in names for owner in owners]
        known = [size for size in sizes if isinstance(size, int)]
        found |= {column: known[0]} if known else {}
    return found


def find_wrong_id(model: Any, batch: Batch) -> str | None:
    """The first id of a batch that the model does not know, where it is, and which it knows."""
    return first_wrong_id(id_sizes(model), [batch])


def first_wrong_id(sizes: Mapping[str, int], batches: Iterable[Batch]) -> str | None:
    """As `find_wrong_id`, of several batches, by the sizes of `id_sizes`."""
    for batch in batches:
        for name, size in sizes.items():
            if isinstance(batch, Mapping) and name in batch:
                ids = np.asarray(on_host(batch[name]))
                wrong = np.argwhere(((ids < 0) | (ids >= size)) & _counts(name, ids, batch))
                if len(wrong):
                    place = wrong[0].tolist()
                    return f"{name}{place} is {ids[tuple(place)]}, and the model knows 0 to {size - 1}"
    return None


def _columns(batch: Batch) -> Iterable[str]:
    return batch if isinstance(batch, Mapping) else ()


def _counts(name: str, ids: np.ndarray, batch: Batch) -> Any:
    """Whether an id matters: anything may stand after a row's length, or where a target's weight is 0."""
    if name in ("targets", "labels") and np.shape(batch.get("weights", 0)) == ids.shape:
        return np.asarray(on_host(batch["weights"])) != 0
    if f"{name}_length" in batch and ids.ndim == 2:
        return np.arange(ids.shape[1]) < np.asarray(on_host(batch[f"{name}_length"]))[:, None]
    return True
