"""What `fit` saves of a run so that it can resume as if nothing had happened, and how it resumes.

Beside the train state a checkpoint holds the position in the data, what was evaluated, the run's records, and a
fingerprint of the run: its model, configuration and data. A run that is another one in any of them is refused.
"""

import dataclasses
import functools
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from training.devices.processes import check_alike, is_first, wait_for_all
from training.devices.sharding import on_host
from training.errors import CheckpointError, NonFiniteError, RunFolderError
from training.evaluation import Evaluation
from training.reporting.run import Run
from training.saving.checkpoint import Checkpoint, read_checkpoint, save_checkpoint
from training.saving.checkpoint_names import checkpoints_in, delete_checkpoints
from training.saving.data_position import BatchStream
from training.saving.files import to_json
from training.saving.fingerprint import differences, run_fingerprint
from training.saving.sharded import ShardedWriter, check_installed
from training.state import LoopState, TrainState, named_leaves

_COST = 0.02  # of the time, at most, where nobody said how often to save
_SECONDS = 60.0
_SHOWN = 10  # differences in an error
_HISTORY = "history.jsonl"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """Where and how often `fit` saves, and whether it resumes from there.

    Attributes:
        folder: for the checkpoints; one folder for each.
        every: steps between two, at least 1; None for a tenth of the run or a minute, whichever is less, and more
            rarely where that would cost more than 2 % of the time. There is always one at the end.
        keep: how many of the newest to keep, at least 1; None for all. (The best model is part of each.)
        resume: continue from the newest good one. A run of another model, data or trained weights is refused;
            optimiser and loss are not compared, so name in `configuration` what they are made from.
        overwrite: the first save deletes those of an earlier run; else a folder with such is refused.
        sharded: each process writes its own part, while training continues, with Orbax; by default the first process
            gathers all and writes it. Either kind is read by any number of devices and processes.
        configuration: what has to be the same when a run is resumed, by name; plain JSON.
        extensible: a run may be resumed for more steps than it was planned for, and then is what it would have been
            with that plan. True only of a schedule that does not end with the run, such as a constant rate.
    """

    folder: Path
    every: int | None = None
    keep: int | None = 2
    resume: bool = False
    overwrite: bool = False
    sharded: bool = False
    configuration: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    extensible: bool = False

    def __post_init__(self):
        object.__setattr__(self, "folder", Path(self.folder))
        if self.sharded:
            check_installed()
        for name in ("every", "keep"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise ValueError(f"{name} must be at least 1 or None; got {number}")


class Checkpointer:
    """Saves one run, and finds it again; without a plan it does neither.

    Args:
        plan: where and how often; None for never.
        run: its records are saved, too.
        steps: the number of the last step, or None if that is not known.

    Attributes:
        resumed: whether the run began in a checkpoint.
    """

    def __init__(self, plan: Checkpoints | None, run: Run | None, steps: int | None):
        self._plan = plan
        self._run = run
        self._steps = steps
        self.resumed = plan is not None and plan.resume
        self._every = (plan and plan.every) or (max(steps // 10, 1) if steps else None)
        self._fingerprint: dict[str, Any] = {}
        self._lines: list[str] = []
        self._broken: list[Path] = []
        self._saved: tuple[int, int] | None = None
        self._first = not self.resumed
        self._writer = ShardedWriter() if plan is not None and plan.sharded else None
        self._cost, self._last = 0.0, time.perf_counter()

    def start(
        self, state: TrainState, stream: BatchStream, evaluation: Evaluation | None, options: Mapping[str, Any]
    ) -> tuple[TrainState, LoopState]:
        """The states to begin with: these, or those of a checkpoint, and then the data are set to what follows it.

        Args:
            state: before the first step.
            stream: the data, of which nothing was read.
            evaluation: what is evaluated.
            options: of `fit`, those that change its outcome.

        Raises:
            CheckpointError: there is no checkpoint to resume from, or its model is another one.
            ValueError: configuration or data are not those of the checkpoint; all differences are listed.
            RunFolderError: an earlier run's checkpoints are there, and this one neither resumes nor overwrites.
        """
        step = int(np.max(state.step))
        never = state.best is not None and not np.any(np.isfinite(np.asarray(on_host(state.best.value))))
        loop = LoopState(step, -1 if never else step, False, [], {})
        if self._plan is None:
            return state, loop
        fingerprint = run_fingerprint(self._plan.configuration, state, stream, evaluation, options)
        self._fingerprint = json.loads(to_json(fingerprint))
        replaces = self.resumed or self._plan.overwrite or (self._run is not None and self._run.replaces)
        if not replaces and checkpoints_in(self._plan.folder):
            raise RunFolderError(
                f"{self._plan.folder} has the checkpoints of an earlier run: continue it with resume=True, or "
                "replace it with overwrite=True"
            )
        if self.resumed:
            state, loop = self._resume(self._plan.folder, state, stream)
            check_alike(loop.step, "the newest checkpoint")
        return state, loop

    def _resume(self, folder: Path, state: TrainState, stream: BatchStream) -> tuple[TrainState, LoopState]:
        def broken(path: Path, error: CheckpointError) -> None:
            print(f"warning: passed over a broken checkpoint: {error}", file=sys.stderr, flush=True)
            self._broken.append(path)

        found = read_checkpoint(folder, like=state, on_broken=broken)
        match found.info:
            case {
                "fingerprint": dict(was),
                "data": {"batches": int(batches)} as position,
                "evaluated": int(evaluated),
                "stopped_early": bool(stopped_early),
                "seconds": dict(seconds),
            } if 0 <= batches <= found.step and all(isinstance(value, float) for value in seconds.values()):
                history = self._read_history(found)
            case _:
                raise CheckpointError(f"{found.folder} was not saved by fit")
        arrays = found.differences(state)
        was = {
            "not trained": self._fingerprint["not trained"],
            **self._planned_longer(found.folder, was),
        }  # older files
        changed = differences(was, self._fingerprint) + arrays
        if changed:
            text = "; ".join(changed[:_SHOWN]) + (f"; and {len(changed) - _SHOWN} more" * (len(changed) > _SHOWN))
            message = f"{found.folder} is of another run, from which this one can't resume: {text}"
            same_model = was.get("model") == self._fingerprint["model"] and not arrays
            raise ValueError(message) if same_model else CheckpointError(message)
        state = found.restore(state)
        stream.go_to(position)
        if self._run is not None:
            self._run.restore(found.files, float(found.info.get("run_seconds", seconds.get("total", 0.0))))
        self._saved = (found.step, evaluated)
        return state, LoopState(int(np.max(state.step)), evaluated, stopped_early, history, seconds)

    def _planned_longer(self, folder: Path, was: dict[str, Any]) -> dict[str, Any]:
        """The fingerprint of the run to resume as it would be had all steps been planned that are to be made now."""
        assert self._plan is not None
        now = self._fingerprint
        planned, asked = was.get("fit", {}).get("steps"), now["fit"]["steps"]
        if planned is None or asked is None or asked <= planned:
            return was
        if not self._plan.extensible:
            raise ValueError(
                f"{folder} is of a run of {planned} steps, with which the schedule of its learning rate ends, so it "
                f"can't go on to {asked}: begin a new run with its model (in the examples --init-from RUN)"
            )
        length = {name: now["configuration"][name] for name in ("steps", "epochs") if name in now["configuration"]}
        fit = {**was["fit"], "steps": asked}
        if fit["evaluation"] and now["fit"]["evaluation"]:  # a tenth of the steps, perhaps
            fit["evaluation"] = {**fit["evaluation"], "every": now["fit"]["evaluation"]["every"]}
        return {**was, "configuration": was["configuration"] | length, "fit": fit}

    def _read_history(self, found: Checkpoint) -> list[dict[str, Any]]:
        try:
            text = found.files[_HISTORY].decode()
            # Not `splitlines`: JSON leaves U+2028 and others within a string as they are.
            self._lines = [line + "\n" for line in text.removesuffix("\n").split("\n")] if text else []
            return [{name: _number(value) for name, value in json.loads(line).items()} for line in self._lines]
        except (KeyError, ValueError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{found.folder / _HISTORY} is not a list of records: {error!r}") from None

    def due(self, step: int) -> bool:
        """Whether to save after this step; after the last one `fit` does in any case, when it has evaluated."""
        if self._plan is None or step == self._steps:
            return False
        at_step = self._every is not None and step % self._every == 0
        if self._plan.every is not None:
            return at_step
        since = time.perf_counter() - self._last
        return (at_step or since >= _SECONDS) and since >= self._cost / _COST

    def save(self, state: TrainState, stream: BatchStream, loop: LoopState) -> None:
        """Save, unless this was saved already.

        Raises:
            NonFiniteError: the state holds what is not finite; nothing is saved.
            CheckpointError: it can't be written; the older checkpoints are as they were.
        """
        if self._plan is None or self._saved == (loop.step, loop.evaluated):
            return
        begun = time.perf_counter()
        if self._writer is None:
            state = jax.tree.map(on_host, state)
        self._check_finite(loop.step, state)
        self._lines += [to_json(record) + "\n" for record in loop.history[len(self._lines) :]]
        files = {_HISTORY: "".join(self._lines).encode(), **(self._run.texts() if self._run else {})}
        info = {
            "fingerprint": self._fingerprint,
            "data": stream.position(),
            "evaluated": loop.evaluated,
            "stopped_early": loop.stopped_early,
            "seconds": loop.seconds,
            "run_seconds": self._run.seconds() if self._run else loop.seconds["total"],
            "best": state.best and {"step": np.asarray(state.best.step), "loss": np.asarray(state.best.value)},
        }
        if self._first:
            if is_first():
                delete_checkpoints(self._plan.folder)
            wait_for_all("the folder of checkpoints is empty")
        if is_first() or self._writer is not None:
            options: Any = {"files": files, "keep": self._plan.keep, "spare": self._broken, "writer": self._writer}
            save_checkpoint(self._plan.folder, loop.step, state, json.loads(to_json(info)), **options)
        self._first = False
        self._saved = (loop.step, loop.evaluated)
        self._last = time.perf_counter()
        self._cost = self._last - begun

    def finish(self) -> None:
        """Wait until all that was saved is on disk.

        Raises:
            CheckpointError: it can't be written.
        """
        if self._writer is not None:
            self._writer.wait()

    def _check_finite(self, step: int, state: TrainState) -> None:
        """Weights that are trained must be finite; an optimiser or a carry may hold infinities, but no NaN."""
        checked = (
            (state.split_model()[0], True, "a weight is not finite"),
            (state.opt_state, False, "the optimiser's state is not a number"),
            (state.carry, False, "the carry is not a number"),
        )
        names, leaves, finite = [], [], []
        for tree, all_finite, what in checked:
            for name, leaf in named_leaves(tree):
                if eqx.is_inexact_array_like(leaf) and hasattr(leaf, "dtype"):
                    names.append((what, name))
                    leaves.append(leaf)
                    finite.append(all_finite)
        find = _find_wrong if self._writer is None else _find_wrong_on_devices
        for wrong, (what, name) in zip(find(leaves, finite, state.ensemble_size), names, strict=True):
            if wrong:
                raise NonFiniteError(step, what, name)


def _find_wrong(leaves: list[Any], finite: list[bool], ensemble_size: int | None, numpy: Any = np) -> list[Any]:
    """For each array, whether it has what is not finite, or what is not a number, in all members of an ensemble."""
    found = []
    for leaf, all_finite in zip(leaves, finite, strict=True):
        wrong = ~numpy.isfinite(leaf) if all_finite else numpy.isnan(leaf)
        if ensemble_size is not None:  # one that diverged is a result, too, when the others continue
            wrong = wrong.reshape(ensemble_size, -1).any(axis=1).all()
        found.append(wrong.any())
    return found


_find_wrong_on_devices = eqx.filter_jit(functools.partial(_find_wrong, numpy=jnp))


def _number(value: Any) -> Any:
    """JSON has null where a number was not finite."""
    return [_number(one) for one in value] if isinstance(value, list) else float("nan") if value is None else value
