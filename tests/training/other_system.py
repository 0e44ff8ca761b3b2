"""Trains, saves and resumes in a Python that lacks what Windows and macOS lack, as far as Linux can play that.

`other_system.py FOLDER`; what other packages want of Linux they have got by the time that it is taken away.
"""

import importlib
import os
import pathlib
import signal
import sys
from typing import Any

for name in (
    "equinox", "grain", "jax", "jax.experimental.multihost_utils", "matplotlib.figure",
    "matplotlib.backends.backend_agg", "numpy", "optax", "pooch", "psutil", "safetensors", "tqdm",
):  # fmt: skip
    importlib.import_module(name)
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None  # pyright: ignore[reportArgumentType] - an import fails then
for name in (
    "O_DIRECTORY", "O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK", "O_SYNC", "O_DSYNC", "fork", "getuid", "geteuid", "uname",
    "confstr", "sysconf", "statvfs", "fchmod", "chown", "killpg", "setsid", "sched_getaffinity", "pread", "pwrite",
    "pipe2", "mkfifo",
):  # fmt: skip
    delattr(os, name)
for name in (
    "SIGKILL",
    "SIGHUP",
    "SIGQUIT",
    "SIGUSR1",
    "SIGALRM",
    "SIGCHLD",
    "SIGPIPE",
    "setitimer",
    "alarm",
    "sigwait",
):
    delattr(signal, name)

os_open, os_kill, read_text = os.open, os.kill, pathlib.Path.read_text


def open_no_folder(path: Any, *arguments: Any, **options: Any) -> int:
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", str(path))
    return os_open(path, *arguments, **options)


def read_no_proc(path: pathlib.Path, *arguments: Any, **options: Any) -> str:
    if path.parts[:2] == ("/", "proc"):
        raise FileNotFoundError(2, "No such file or directory", str(path))
    return read_text(path, *arguments, **options)


def kill(pid: int, number: int) -> None:
    assert sys._getframe(1).f_globals["__name__"].startswith("psutil"), "it ends a process on Windows by any signal"
    os_kill(pid, number)


os.open, os.kill, sys.platform = open_no_folder, kill, "win32"
pathlib.Path.read_text = read_no_proc  # pyright: ignore[reportAttributeAccessIssue]

import killed_training  # noqa: E402 - now everything of this repository is imported and runs
import numpy as np  # noqa: E402

import zoo  # noqa: E402
from data.array_cache import cached_arrays  # noqa: E402
from training import Run, handle_sigterm  # noqa: E402

for package in ("zoo", "data", "training"):
    for path in sorted((pathlib.Path(__file__).parents[2] / package).rglob("*.py")):
        parts = path.relative_to(pathlib.Path(__file__).parents[2]).with_suffix("").parts
        importlib.import_module(".".join(part for part in parts if part != "__init__"))

handle_sigterm()
folder = pathlib.Path(sys.argv[1])
run = folder / "run"
killed_training.main(killed_training.Arguments(out=run, steps=6, curves=True))
killed_training.main(killed_training.Arguments(out=run, steps=6, resume=True))
held = Run("held", folder / "held")
lock = folder / "held" / "run.lock"
lock.write_text(
    lock.read_text().replace(f'"pid": {os.getpid()}', f'"pid": {os.getppid()}')
)  # it began at another time
Run("held", folder / "held")
arrays = [cached_arrays("numbers", {"of": "a test"}, lambda: {"x": np.arange(3)})["x"].tolist() for _ in range(2)]
assert arrays == [[0, 1, 2]] * 2
zoo.save(folder / "model.safetensors", model := killed_training.model_loop("transformer_lm", 0)["model"])
assert zoo.load(folder / "model.safetensors").config == model.config
