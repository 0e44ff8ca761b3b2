"""Measurements in processes of their own: with or without a tuned allocator, and with a peak of memory."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from training.reporting.memory import peak_memory

ROOT = Path(__file__).parents[2]
# The most that glibc can be asked for, and that only before a process starts.
TUNABLES = (
    "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=8589934592:"
    "glibc.malloc.top_pad=268435456"
)


class Side(NamedTuple):
    """What `python SCRIPT ARGUMENTS...` measures, whether `GLIBC_TUNABLES` is set for it, and what else is."""

    arguments: Sequence[object]
    tuned: bool
    settings: Mapping[str, str] = {}


class Measured(NamedTuple):
    """The median time of each run, in the order in which a script makes them, and the largest peak of memory."""

    milliseconds: list[float]
    peak_bytes: int


def in_turns(script: str, sides: Mapping[str, Side], *, rounds: int) -> dict[str, Measured]:
    """All sides one after another, as many times as there are rounds, each time in a new process."""
    answers: dict[str, list[dict]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            answers[name].append(answer(script, side))
    return {
        name: Measured(
            [statistics.median(times) for times in zip(*(answer["ms"] for answer in given), strict=True)],
            max(answer["peak_bytes"] for answer in given),
        )
        for name, given in answers.items()
    }


def report(runs: Sequence[Callable[[], object]], *, warm_up: Sequence[Callable[[], object]]) -> None:
    """What a script ends with: calls of `warm_up`, which compile, then one measured call of each run."""
    for run in warm_up:
        run()
    times = []
    for run in runs:
        begun = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - begun))
    print(json.dumps({"ms": times, "peak_bytes": peak_memory()}))


def answer(script: str, side: Side) -> dict:
    """What a process of its own prints last."""
    # Settings of the suite and of the process that measures.
    others = ("JAX_", "GLIBC_TUNABLES", "MALLOC_", "ZOO_ALLOCATOR")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    environment |= {"PYTHONPATH": str(ROOT), **side.settings}
    if side.tuned:
        environment["GLIBC_TUNABLES"] = TUNABLES
    command = [sys.executable, script, *map(str, side.arguments)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])
