"""Folders of runs: which one is next, whose one is, and whether there is a run in it."""

import json
import os
import shlex
from pathlib import Path
from typing import Any

from training.errors import CheckpointError, RunFolderError
from training.reporting.run_lock import LOCK

MARKER = "run.json"
CHECKPOINTS = "checkpoints"
TEXTS = ("metrics.jsonl", "timing.jsonl", "samples.txt")
OF_EVERY_RUN = (*TEXTS, "curves.png", "summary.json")


def newest_file(name: str, file: str, *, root: str | os.PathLike[str] = "runs") -> Path:
    """The latest file of that name in the numbered folders of an example.

    Raises:
        RunFolderError: there is none.
    """
    folder = Path(root) / name
    found = sorted(folder.glob(f"*/{file}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise RunFolderError(f"no {file} in {folder}: train a model first, or say where one is")
    return found[-1]


def next_folder(parent: Path) -> Path:
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


def folder_to_resume(path: Path) -> Path:
    if path.is_file():
        raise CheckpointError(f"{path} is a file, not the folder of a run (pickle files are never loaded)")
    folder = path.parent if path.name == CHECKPOINTS else path
    if not (folder / MARKER).is_file():
        raise CheckpointError(f"no usable checkpoint in {path}: it is not the folder of a run")
    return folder


def files_of(folder: Path) -> list[str]:
    """Files of the example's own that its marker names; none that would lie elsewhere."""
    files = json.loads((folder / MARKER).read_text(encoding="utf-8")).get("files", [])
    root = folder.resolve()
    return [file for file in files if isinstance(file, str) and root in (folder / file).resolve().parents]


def arguments_of(folder: Path) -> dict[str, Any]:
    """What the run in a folder was started with, in plain JSON; nothing of a run that kept none."""
    try:
        arguments = json.loads((folder / MARKER).read_text(encoding="utf-8")).get("arguments", {})
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{folder / MARKER} can't be read: {error}") from None
    if not isinstance(arguments, dict):
        raise CheckpointError(f"{folder / MARKER} has no arguments by name")
    return arguments


def has_run(folder: Path) -> bool:
    """Whether anything would be lost; a run that ended before it wrote anything has only made the folder its own."""
    files = {*OF_EVERY_RUN, *files_of(folder)}
    return any((folder / file).exists() for file in files) or any((folder / CHECKPOINTS).glob("*"))


def check_out(out: Path, name: str, *, overwrite: bool) -> None:
    """Refuse a folder that a run of an example can't have, or whose run would be lost; nothing is made or changed."""
    check_folder(out, name)
    if not overwrite and (out / MARKER).exists() and has_run(out):
        shown = shlex.quote(str(out))
        raise RunFolderError(
            f"{out} has a run in it: continue it with --resume {shown}, replace it with --overwrite, or choose "
            "another folder (in Python resume=..., overwrite=True)"
        )


def check_folder(out: Path, name: str) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise RunFolderError(f"out must be a folder; {out} is a file")
    if not any(path.name != LOCK for path in out.iterdir()):
        return
    try:
        example = json.loads((out / MARKER).read_text(encoding="utf-8"))["example"]
    except (OSError, ValueError, KeyError, TypeError):
        raise RunFolderError(
            f"out must be new, empty or of an earlier run of {name}; {out} holds other files"
        ) from None
    if example != name:
        raise RunFolderError(f"out must be new, empty or of an earlier run of {name}; {out} is a run of {example}")
