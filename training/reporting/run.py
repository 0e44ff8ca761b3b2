"""The folder of a run: metrics, times, samples, curves, summary. It overwrites nothing but its own files, and one run
at a time writes into it."""

import dataclasses
import importlib.metadata
import json
import os
import platform
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax

from training.devices.processes import from_first, is_first, silent_folder
from training.errors import CheckpointError, RunFolderError
from training.reporting.plain_json import to_json
from training.reporting.plots import draw_curves
from training.reporting.run_lock import RunLock
from training.state import FitResult
from zoo.serialisation import atomic_write

_BEGUN = time.perf_counter()
_MARKER = "run.json"
_CHECKPOINTS = "checkpoints"
_TEXTS = ("metrics.jsonl", "timing.jsonl", "samples.txt")
_PACKAGES = ("jax", "jaxlib", "equinox", "optax", "grain", "numpy", "jaxtyping")


class Run:
    """The folder of one run. Of several processes the first has it; what the others write is discarded.

    Files:
        run.json: says whose folder it is; made first.
        metrics.jsonl: one record a line, only what is deterministic.
        timing.jsonl: step, seconds since the start, steps per second.
        samples.txt: what the model generated at each evaluation.
        curves.png: the loss, and the accuracy.
        summary.json: written last; where it is missing, the run did not end.
        checkpoints: a folder for each of the newest checkpoints, if `fit` is asked for them.
        run.lock: who writes here now; gone after `finish`, or when the process ends.

    Args:
        name: name of the example.
        out: the folder itself; None for `root/NAME/NUMBER` with the next free number. It may be new,
            or empty, or made by the same example before: this run's files then replace those, and other files stay.
        arguments: what the run was started with, for the summary; a mapping or a dataclass.
        root: where numbered folders lie.
        resume: an earlier run's folder, or the checkpoints in it, to continue in, instead of `out`. Its files stay as
            they are until `fit` has found a checkpoint to resume from.

    Raises:
        RunFolderError: `out` is not a folder, or has files and was not made by this example, or another process
            writes there.
        CheckpointError: `resume` is not the folder of a run.
    """

    folder: Path

    def __init__(
        self,
        name: str,
        out: Path | None = None,
        *,
        arguments: Any = None,
        root: Path = Path("runs"),
        resume: Path | None = None,
    ):
        self.name = name
        if dataclasses.is_dataclass(arguments):
            arguments = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(arguments)}
        self.arguments: Mapping[str, Any] = arguments or {}
        self._begun: set[str] = set()
        self._lock: RunLock | None = None
        if not is_first():
            self.folder = silent_folder()
            self.checkpoints = Path(from_first(""))  # where all write their parts of a checkpoint
            return
        if resume is not None:
            if out is not None:
                raise ValueError("give either out or resume: a run is resumed in its own folder")
            self.folder = _folder_to_resume(resume)
            _check_folder(self.folder, name)
        elif out is None:
            self.folder = _next_folder(root / name)
        else:
            _check_folder(out, name)
            out.mkdir(parents=True, exist_ok=True)
            self.folder = out
        self.checkpoints = self.folder / _CHECKPOINTS
        from_first(str(self.checkpoints.absolute()))
        atomic_write(self.folder / _MARKER, (to_json({"example": name, "format": 1}, indent=2) + "\n").encode())
        try:
            self._lock = RunLock(self.folder)
        except BlockingIOError as error:
            raise RunFolderError(str(error)) from None
        weakref.finalize(self, self._lock.release)  # also when the process ends on an error

    def path(self, file: str) -> Path:
        """Where a file of the run goes, for instance `model.safetensors`."""
        return self.folder / file

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
        """Since the program began, near enough: this module is imported before any data are loaded."""
        return time.perf_counter() - _BEGUN

    def texts(self) -> dict[str, bytes]:
        """What this run has recorded, timed and sampled so far, by file."""
        return {file: self.path(file).read_bytes() for file in _TEXTS if file in self._begun}

    def restore_texts(self, texts: Mapping[str, bytes]) -> None:
        """Put what `texts` gave back in its place, and continue from there."""
        self.path("summary.json").unlink(missing_ok=True)
        for file in _TEXTS:
            if file in texts:
                atomic_write(self.path(file), texts[file])
                self._begun.add(file)
            else:
                self.path(file).unlink(missing_ok=True)

    def finish(self, result: FitResult, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Write curves.png and summary.json, and let go of the folder.

        Args:
            result: of `fit`.
            metrics: the figures of the run by name.

        Returns:
            The summary. Its `seconds` are those of `fit` by phase, `fit` for all of them, and `total` for everything
            since the program began, loading of data and tests included.
        """
        if result.history:
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
        }
        atomic_write(self.path("summary.json"), (to_json(summary, indent=2) + "\n").encode())
        if self._lock is not None:
            self._lock.release()
        return summary

    def _append(self, file: str, text: str) -> None:
        if file not in self._begun:
            # The first line of this run ends what an earlier one in this folder said.
            self.path("summary.json").unlink(missing_ok=True)
            self.path(file).write_text("")
            self._begun.add(file)
        # Of all that is written, a sample alone may hold what has no UTF-8: a lone surrogate.
        with open(self.path(file), "a", encoding="utf-8", errors="replace") as stream:
            stream.write(text)


def newest_file(name: str, file: str, *, root: Path = Path("runs")) -> Path:
    """The latest file of that name in the numbered folders of an example.

    Raises:
        RunFolderError: there is none.
    """
    found = sorted((root / name).glob(f"*/{file}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise RunFolderError(f"no {file} in {root / name}: train a model first, or say where one is")
    return found[-1]


def _next_folder(parent: Path) -> Path:
    """Make the folder of the next free number; of two runs that start at once, each gets its own."""
    parent.mkdir(parents=True, exist_ok=True)
    number = max((int(path.name) for path in parent.iterdir() if path.name.isdecimal()), default=0)
    while True:
        number += 1
        try:
            (parent / str(number)).mkdir()
        except FileExistsError:
            continue
        return parent / str(number)


def _folder_to_resume(path: Path) -> Path:
    if path.is_file():
        raise CheckpointError(f"{path} is a file, not the folder of a run (pickle files are never loaded)")
    folder = path.parent if path.name == _CHECKPOINTS else path
    if not (folder / _MARKER).is_file():
        raise CheckpointError(f"no usable checkpoint in {path}: it is not the folder of a run")
    return folder


def _check_folder(out: Path, name: str) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise RunFolderError(f"out must be a folder; {out} is a file")
    if not any(out.iterdir()):
        return
    try:
        example = json.loads((out / _MARKER).read_text(encoding="utf-8"))["example"]
    except (OSError, ValueError, KeyError, TypeError):
        raise RunFolderError(
            f"out must be new, empty or of an earlier run of {name}; {out} holds other files"
        ) from None
    if example != name:
        raise RunFolderError(f"out must be new, empty or of an earlier run of {name}; {out} is a run of {example}")


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
