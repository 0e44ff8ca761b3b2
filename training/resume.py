"""What `fit` saves of a run so that it can go on as if nothing had happened, and how it goes on.

Beside the train state a checkpoint holds the position in the data, what was evaluated, the run's records, and what
the run is: its model, configuration and data. A run that is another one in any of them is refused.
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

from training.batch_stream import BatchStream
from training.checkpoint import Checkpoint, CheckpointError, delete_checkpoints, read_checkpoint, save_checkpoint
from training.evaluation import readable
from training.identity import differences
from training.non_finite import NonFiniteError
from training.plain_json import to_json
from training.processes import is_first, wait_for_all
from training.run import Run
from training.sharded_checkpoint import ShardedWriter, check_installed
from training.sharding import on_host
from training.state import TrainState, leaf_name

_COST = 0.02  # of the time, at most, where nobody said how often to save
_SECONDS = 60.0
_SHOWN = 10  # differences in an error
_HISTORY = "history.jsonl"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """Where and how often `fit` saves, and whether it goes on from there.

    Attributes:
        folder: for the checkpoints; one folder for each.
        every: steps between two, at least 1; None for a tenth of the run or a minute, whichever is less, and more
            rarely where that would cost more than 2 % of the time. There is always one at the end.
        keep: how many of the newest to keep, at least 1; None for all. (The best model is part of each.)
        resume: go on from the newest good one. Otherwise the first save deletes those of an earlier run.
        sharded: each process writes its own part, while training goes on, with Orbax; by default the first process
            gathers all and writes it. Either kind is read by any number of devices and processes.
        configuration: what has to be the same when a run is resumed, by name; plain JSON.
    """

    folder: Path
    every: int | None = None
    keep: int | None = 2
    resume: bool = False
    sharded: bool = False
    configuration: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if self.sharded:
            check_installed()
        for name in ("every", "keep"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise ValueError(f"{name} must be at least 1 or None; got {number}")


@dataclasses.dataclass
class Progressed:
    """How far a run is, besides its state and its data.

    Attributes:
        evaluated: the step of the last evaluation.
        stopped_early: whether patience has ended the run.
        history: its records.
        seconds: by phase.
    """

    evaluated: int
    stopped_early: bool
    history: list[dict[str, Any]]
    seconds: dict[str, float]


class Saver:
    """Saves one run, and finds it again.

    Args:
        plan: where and how often.
        identity: what the run is, by name, plain JSON in nested dictionaries; `model` is one of the names.
        steps: the number of the last step, or None if that is not known.
        run: its records are saved, too.
        members: size of an ensemble; None for a single model.
    """

    def __init__(
        self, plan: Checkpoints, identity: Mapping[str, Any], steps: int | None, run: Run | None, members: int | None
    ):
        self._plan = plan
        self._identity = json.loads(to_json(dict(identity)))
        self._steps = steps
        self._run = run
        self._members = members
        self._every = plan.every or (max(steps // 10, 1) if steps else None)
        self._lines: list[str] = []
        self._broken: list[Path] = []
        self._saved: tuple[int, int] | None = None
        self._first = not plan.resume
        self._writer = ShardedWriter() if plan.sharded else None
        self._cost, self._last = 0.0, time.perf_counter()

    def resume(self, state: TrainState, stream: BatchStream) -> tuple[TrainState, Progressed]:
        """The state and the progress of the newest good checkpoint; the data are set to what follows it.

        Raises:
            CheckpointError: there is none, or its model is another one.
            ValueError: configuration or data are not those of the checkpoint; all differences are listed.
        """

        def broken(path: Path, error: CheckpointError) -> None:
            print(f"warning: passed over a broken checkpoint: {error}", file=sys.stderr, flush=True)
            self._broken.append(path)

        found = read_checkpoint(self._plan.folder, like=state, on_broken=broken)
        match found.info:
            case {
                "identity": dict(was),
                "data": {"batches": int(batches)} as position,
                "evaluated": int(evaluated),
                "stopped_early": bool(stopped_early),
                "seconds": dict(seconds),
            } if 0 <= batches <= found.step and all(isinstance(value, float) for value in seconds.values()):
                history = self._read_history(found)
            case _:
                raise CheckpointError(f"{found.folder} was not saved by fit")
        arrays = found.differences(state)
        changed = differences(was, self._identity) + arrays
        if changed:
            text = "; ".join(changed[:_SHOWN]) + (f"; and {len(changed) - _SHOWN} more" * (len(changed) > _SHOWN))
            message = f"{found.folder} is of another run, from which this one can't go on: {text}"
            same_model = was.get("model") == self._identity["model"] and not arrays
            raise ValueError(message) if same_model else CheckpointError(message)
        state = found.restore(state)
        stream.go_to(position)
        progressed = Progressed(evaluated, stopped_early, history, seconds)
        if self._run is not None:
            self._run.restore_texts(found.files)
        self._saved = (found.step, progressed.evaluated)
        return state, progressed

    def _read_history(self, found: Checkpoint) -> list[dict[str, Any]]:
        try:
            self._lines = found.files[_HISTORY].decode().splitlines(keepends=True)
            return [{name: _number(value) for name, value in json.loads(line).items()} for line in self._lines]
        except (KeyError, ValueError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{found.folder / _HISTORY} is no list of records: {error!r}") from None

    def due(self, step: int) -> bool:
        """Whether to save after this step; after the last one `fit` does in any case, when it has evaluated."""
        if step == self._steps:
            return False
        at_step = self._every is not None and step % self._every == 0
        if self._plan.every is not None:
            return at_step
        since = time.perf_counter() - self._last
        return (at_step or since >= _SECONDS) and since >= self._cost / _COST

    def save(self, step: int, state: TrainState, stream: BatchStream, progressed: Progressed) -> None:
        """Save, unless this was saved already.

        Raises:
            NonFiniteError: the state holds what is not finite; nothing is saved.
            CheckpointError: it can't be written; the older checkpoints are as they were.
        """
        if self._saved == (step, progressed.evaluated):
            return
        begun = time.perf_counter()
        if self._writer is None:
            state = jax.tree.map(on_host, state)
        self._check_finite(step, state)
        self._lines += [to_json(record) + "\n" for record in progressed.history[len(self._lines) :]]
        files = {_HISTORY: "".join(self._lines).encode(), **(self._run.texts() if self._run else {})}
        best = state.best and {"step": np.asarray(state.best.step).tolist(), "loss": readable(state.best.value)}
        info = {
            "identity": self._identity,
            "data": stream.position(),
            "evaluated": progressed.evaluated,
            "stopped_early": progressed.stopped_early,
            "seconds": progressed.seconds,
            "best": best,
        }
        if self._first:
            if is_first():
                delete_checkpoints(self._plan.folder)
            wait_for_all("the folder of checkpoints is empty")
        if is_first() or self._writer is not None:
            save_checkpoint(
                self._plan.folder,
                step,
                state,
                json.loads(to_json(info)),
                files=files,
                keep=self._plan.keep,
                spare=self._broken,
                writer=self._writer,
            )
        self._first = False
        self._saved = (step, progressed.evaluated)
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
        """A model must be finite; an optimiser or a carry may hold infinities, but nothing that is not a number."""
        checked = (
            (state.model, True, "a weight is not finite"),
            (state.opt_state, False, "the optimiser's state is not a number"),
            (state.carry, False, "the carry is not a number"),
        )
        names, leaves, finite = [], [], []
        for tree, all_finite, what in checked:
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
                if eqx.is_inexact_array_like(leaf) and hasattr(leaf, "dtype"):
                    names.append((what, leaf_name(path)))
                    leaves.append(leaf)
                    finite.append(all_finite)
        find = _find_wrong if self._writer is None else _find_wrong_on_devices
        for wrong, (what, name) in zip(find(leaves, finite, self._members), names, strict=True):
            if wrong:
                raise NonFiniteError(step, what, name)


def _find_wrong(leaves: list[Any], finite: list[bool], members: int | None, numpy: Any = np) -> list[Any]:
    """For each array, whether it has what is not finite, or what is not a number, in all members of an ensemble."""
    found = []
    for leaf, all_finite in zip(leaves, finite, strict=True):
        wrong = ~numpy.isfinite(leaf) if all_finite else numpy.isnan(leaf)
        if members is not None:  # one that diverged is a result, too, when the others go on
            wrong = wrong.reshape(members, -1).any(axis=1).all()
        found.append(wrong.any())
    return found


_find_wrong_on_devices = eqx.filter_jit(functools.partial(_find_wrong, numpy=jnp))


def _number(value: Any) -> Any:
    """JSON has null where a number was not finite."""
    return [_number(one) for one in value] if isinstance(value, list) else float("nan") if value is None else value
