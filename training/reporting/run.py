"""The folder of a run: metrics, times, samples, curves, summary. No run overwrites another unless told to, and one
at a time writes into it."""

import contextlib
import dataclasses
import importlib.metadata
import os
import platform
import sys
import time
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax

from training.devices.processes import from_first, is_first, silent_folder
from training.errors import RunFolderError
from training.reporting.plots import draw_curves
from training.reporting.run_folder import (
    CHECKPOINTS,
    MARKER,
    OF_EVERY_RUN,
    TEXTS,
    check_folder,
    check_out,
    files_of,
    folder_to_resume,
    has_run,
    next_folder,
)
from training.reporting.run_lock import RunLock
from training.saving.checkpoint_names import delete_checkpoints
from training.saving.files import to_json
from training.state import FitResult
from zoo.atomic_write import atomic_write

_BEGUN = time.perf_counter()
_PACKAGES = ("jax", "jaxlib", "equinox", "optax", "grain", "numpy", "jaxtyping")


class Run:
    """The folder of one run. Of several processes the first has it; what the others write is discarded.

    Files:
        run.json: says whose folder it is, what the run was started with, and what else was written; made first.
        metrics.jsonl: one record a line, only what is deterministic.
        timing.jsonl: step, seconds since the start, steps per second.
        samples.txt: what the model generated at each evaluation.
        curves.png: the loss, and the accuracy.
        summary.json: written last; where it is missing, the run did not end.
        checkpoints: a folder for each of the newest checkpoints, if `fit` is asked for them.
        run.lock: who writes here now; gone after `finish`, or when the process ends.

    Args:
        name: name of the example.
        out: the folder itself; None for `root/NAME/NUMBER` with the next free number. It may be new, or empty, or,
            to `overwrite` it, of an earlier run of the same example.
        arguments: what the run was started with, for run.json and the summary; a mapping or a dataclass.
        root: where numbered folders lie.
        resume: an earlier run's folder, or the checkpoints in it, to continue in, instead of `out`. Its files stay as
            they are until `fit` has found a checkpoint to resume from.
        overwrite: delete what an earlier run wrote into `out`, and nothing else, as soon as this one writes anything;
            else such a folder is refused.

    Raises:
        RunFolderError: `out` is not a folder, or has files and was not made by this example, or has a run in it, or
            another process writes there. All is as it was.
        CheckpointError: `resume` is not the folder of a run.
    """

    folder: Path

    def __init__(
        self,
        name: str,
        out: str | os.PathLike[str] | None = None,
        *,
        arguments: Any = None,
        root: str | os.PathLike[str] = "runs",
        resume: str | os.PathLike[str] | None = None,
        overwrite: bool = False,
    ):
        self.name = name
        if dataclasses.is_dataclass(arguments):
            arguments = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(arguments)}
        self.arguments: Mapping[str, Any] = arguments or {}
        self._begun: set[str] = set()
        self._written: list[str] = []  # files of the example's own
        self.replaces = False  # an earlier run, which is there until this one writes anything
        self._seconds_before = 0.0
        self._lock: RunLock | None = None
        if not is_first():
            self.folder = silent_folder()
            self.checkpoints = Path(from_first(""))  # where all write their parts of a checkpoint
            return
        if resume is not None:
            if out is not None:
                raise ValueError("give either out or resume: a run is resumed in its own folder")
            self.folder = folder_to_resume(Path(resume))
            check_folder(self.folder, name)
        elif out is None:
            self.folder = next_folder(Path(root) / name)
        else:
            self.folder = Path(out)
            check_folder(self.folder, name)
            self.folder.mkdir(parents=True, exist_ok=True)
        self.checkpoints = self.folder / CHECKPOINTS
        from_first(str(self.checkpoints.absolute()))
        if not (self.folder / MARKER).exists():
            self._write_marker()
        try:
            self._lock = RunLock(self.folder)
        except BlockingIOError as error:
            raise RunFolderError(str(error)) from None
        weakref.finalize(self, self._lock.release)  # also when the process ends on an error
        self._written = files_of(self.folder)
        if resume is None:
            try:
                check_out(self.folder, name, overwrite=overwrite)
            except RunFolderError:
                self._lock.release()
                raise
            self.replaces = has_run(self.folder)
            if not self.replaces:
                self._written = []
                self._write_marker()

    def path(self, file: str) -> Path:
        """Where a file of the run goes, such as `model.safetensors`: the run's own unless it is there by then."""
        if self.replaces:
            self._delete_run()
        path = self.folder / file
        own = file in self._written or file in (*OF_EVERY_RUN, CHECKPOINTS, MARKER)
        if self._lock is not None and not own and not path.exists():
            self._written.append(file)
            self._write_marker()
        return path

    def log(self, step: int, figures: Mapping[str, Any]) -> None:
        """Add a line to metrics.jsonl; nothing in it should differ from run to run, as a time would."""
        self._append("metrics.jsonl", to_json({"step": step, **figures}) + "\n")

    def timing(self, record: Mapping[str, Any]) -> None:
        """Add a line to timing.jsonl."""
        self._append("timing.jsonl", to_json(dict(record)) + "\n")

    def sample(self, step: int, text: str) -> None:
        """Add what the model wrote after a step to samples.txt."""
        self._append("samples.txt", f"--- step {step}\n{text.rstrip()}\n")

    def seconds(self) -> float:
        """Since the program began, near enough: this module is imported before any data are loaded.

        Of a run that was resumed, with those of the earlier processes up to the checkpoint.
        """
        return self._seconds_before + time.perf_counter() - _BEGUN

    def texts(self) -> dict[str, bytes]:
        """What this run has recorded, timed and sampled so far, by file."""
        return {file: self.path(file).read_bytes() for file in TEXTS if file in self._begun}

    def restore(self, texts: Mapping[str, bytes], seconds: float) -> None:
        """Put what `texts` gave back in its place, and continue from there and from so many `seconds`."""
        self._seconds_before = seconds
        self._write_marker()  # with the arguments that hold from now on
        self.path("summary.json").unlink(missing_ok=True)
        for file in TEXTS:
            if file in texts:
                atomic_write(self.path(file), texts[file])
                self._begun.add(file)
            else:
                self.path(file).unlink(missing_ok=True)

    def finish(self, result: FitResult, metrics: Mapping[str, Any], **facts: Any) -> dict[str, Any]:
        """Write curves.png and summary.json, and let go of the folder.

        Args:
            result: of `fit`.
            metrics: the figures of the run by name.
            facts: further entries of the summary, plain JSON.

        Returns:
            The summary. Its `seconds` are those of `fit` by phase, `fit` for all of them, and `total` for everything
            since the program began, loading of data and tests included; with those before the run was resumed.
        """
        if result.history:
            with may_fail("curves.png could not be drawn"):
                draw_curves(result.history, self.path("curves.png"), title=self.name)
        arrays = jax.tree.leaves(eqx.filter(result.model, eqx.is_array))
        seconds = {**result.seconds, "fit": result.seconds["total"], "total": self.seconds()}
        summary = {
            "metrics": dict(metrics),
            "steps": result.steps,
            "seconds": seconds,
            "parameters": sum(array.size for array in arrays) // (result.state.ensemble_size or 1),
            "arguments": dict(self.arguments),
            "device": _device(),
            "versions": _versions(),
            **facts,
        }
        atomic_write(self.path("summary.json"), (to_json(summary, indent=2) + "\n").encode())
        if self._lock is not None:
            self._lock.release()
        return summary

    def _write_marker(self) -> None:
        marker = {"example": self.name, "format": 1, "arguments": dict(self.arguments), "files": self._written}
        atomic_write(self.folder / MARKER, (to_json(marker, indent=2) + "\n").encode())

    def _delete_run(self) -> None:
        """Delete what an earlier run wrote into this folder."""
        self.replaces = False
        for file in (*OF_EVERY_RUN, *self._written):
            (self.folder / file).unlink(missing_ok=True)
        if self.checkpoints.is_dir():
            delete_checkpoints(self.checkpoints)
            with contextlib.suppress(OSError):  # something else is in it
                self.checkpoints.rmdir()
        self._written = []
        self._write_marker()

    def _append(self, file: str, text: str) -> None:
        if file not in self._begun:
            # The first line of this run ends what an earlier one in this folder said.
            self.path("summary.json").unlink(missing_ok=True)
            self.path(file).write_text("")
            self._begun.add(file)
        # Of all that is written, a sample alone may hold what has no UTF-8: a lone surrogate.
        with open(self.path(file), "a", encoding="utf-8", errors="replace") as stream:
            stream.write(text)


def _device() -> str:
    devices = jax.devices()
    kind = devices[0].device_kind
    if devices[0].platform == "cpu":
        return f"cpu: {platform.machine()}, {os.cpu_count()} cores"
    return f"{devices[0].platform}: {len(devices)} x {kind}"


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


@contextlib.contextmanager
def may_fail(failure: str) -> Iterator[None]:
    """What comes after a model is saved and may fail, such as a picture: an error is then a warning line.

    Args:
        failure: what the line says before the error's own words.

    Example:
        >>> with may_fail("no picture"):
        ...     raise ValueError("nothing to draw")
    """
    try:
        yield
    except Exception as error:
        print(f"warning: {failure}: {error or type(error).__name__}", file=sys.stderr, flush=True)
