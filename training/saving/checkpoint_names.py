"""The checkpoints that lie in a folder, by their names alone."""

import os
import re
import shutil
import warnings
from collections.abc import Collection
from pathlib import Path

from training.saving.sharded import UNFINISHED

_STEP = re.compile(r"step_(\d{8,})(?:_(\d+))?")
_UNFINISHED = re.compile(rf"\.step_.*\.tmp|{UNFINISHED}")


def delete_checkpoints(folder: Path) -> None:
    """Delete all checkpoints of a folder: those of an earlier run, when a new one begins in its place."""
    delete(folder, checkpoints_in(folder))


def step_of(folder: Path) -> int | None:
    """The step that a folder's name says it is of; None for another name."""
    found = _STEP.fullmatch(folder.name)
    return int(found[1]) if found else None


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints of a folder, newest first."""
    found = [match for name in _names(folder) if (match := _STEP.fullmatch(name))]
    found.sort(key=lambda match: (int(match[1]), int(match[2] or 1)), reverse=True)
    return [folder / match[0] for match in found]


def delete(folder: Path, steps: Collection[Path]) -> None:
    """Delete checkpoints, and what killed processes left unfinished; what can't be deleted stays."""
    for path in steps:
        try:
            os.rename(path, folder / f".{path.name}.deleted.tmp")  # no half of it ever has the name of a checkpoint
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
