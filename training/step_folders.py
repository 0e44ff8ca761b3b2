"""The folders of a run's checkpoints, `step_00000010` and so on: which there are, and how they go."""

import os
import re
import shutil
import warnings
from collections.abc import Collection
from pathlib import Path

from training.sharded_checkpoint import UNFINISHED

_STEP = re.compile(r"step_(\d{8,})(?:_(\d+))?")
_UNFINISHED = re.compile(rf"\.step_.*\.tmp|{UNFINISHED}")


def step_of(folder: Path) -> int | None:
    """The step that a folder's name says it is of; None for another name."""
    found = _STEP.fullmatch(folder.name)
    return int(found[1]) if found else None


def step_folders(folder: Path) -> list[Path]:
    """The folders of steps, newest first."""
    found = [match for name in _names(folder) if (match := _STEP.fullmatch(name))]
    found.sort(key=lambda match: (int(match[1]), int(match[2] or 1)), reverse=True)
    return [folder / match[0] for match in found]


def new_step_folder(folder: Path, step: int) -> Path:
    """A name for a step that is free; the first one may be taken by a broken checkpoint."""
    place, attempt = folder / f"step_{step:08d}", 1
    while place.exists():
        attempt += 1
        place = folder / f"step_{step:08d}_{attempt}"
    return place


def delete_steps(folder: Path, steps: Collection[Path]) -> None:
    """Delete checkpoints, and what killed processes left unfinished; what can't be deleted stays."""
    for path in steps:
        doomed = folder / f".{path.name}.deleted.tmp"
        try:
            os.rename(path, doomed)  # so that no half of it ever has the name of a checkpoint
        except OSError as error:
            warnings.warn(f"{path} could not be deleted: {error.strerror}", stacklevel=3)
    for name in _names(folder):
        if _UNFINISHED.fullmatch(name):
            shutil.rmtree(folder / name, ignore_errors=True)


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
