"""Real processes that train together over the loopback: as one, to the end, and when one of them is killed."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.command_lines import answers

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "sequence_tasks.py"
SCRIPT = Path(__file__).with_name("processes_training.py")  # a tiny training, which starts sooner


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(autouse=True, scope="module")
def compiled(tmp_path_factory):
    """A folder for what the processes of these tests compile, so that each program is compiled once."""
    folder = tmp_path_factory.mktemp("compiled")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("JAX_")]:
            patch.delenv(name)
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # compiles faster
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(folder))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
        patch.setenv("JAX_COMPILATION_CACHE_MAX_SIZE", str(2**33))  # JAX takes a lock
        yield


# A process that is killed may leave half an entry: it reads only, and holds no lock.
READS_ONLY = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1e9", "JAX_COMPILATION_CACHE_MAX_SIZE": "-1"}


def start(*arguments, processes=2, environment=None, script=SCRIPT):
    """The processes of a run, or of one part of it."""
    address = f"127.0.0.1:{free_port()}"
    together = [] if processes == 1 else ["--coordinator", address, "--processes", str(processes)]
    return [
        subprocess.Popen(
            [
                sys.executable,
                str(script),
                *map(str, arguments),
                *together,
                *(["--process-id", str(i)] if together else []),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
        )
        for i in range(processes)
    ]


def ends(running, timeout=240):
    """Exit code, output and errors of each."""
    texts = [process.communicate(timeout=timeout) for process in running]
    return [(process.returncode, *text) for process, text in zip(running, texts, strict=True)]


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def close(found, expected, *, first, all_of_them):
    """The losses of ten steps and of all agree, relatively."""
    assert [record["step"] for record in found] == [record["step"] for record in expected]
    for name in ("loss", "validation_loss"):
        values = [np.array([record[name] for record in records if name in record]) for records in (found, expected)]
        np.testing.assert_allclose(*(value[:10] for value in values), rtol=first if name == "loss" else all_of_them)
        np.testing.assert_allclose(*values, rtol=all_of_them)


# Few steps: where four devices share two cores, they mostly wait for one another.
OPTIONS = ["--steps", 8, "--save-every", 1]
LONG = ["--smoke", "--steps", 60, "--save-every", 15]
LAYOUT = ["--devices", 2, "--fsdp"]


def trained_together(folder, options, **how):
    """The metrics of two processes of two devices each, and what they said."""
    found = ends(start(*options, *LAYOUT, "--out", folder, **how))
    assert [code for code, _, _ in found] == [0, 0], found
    return metrics(folder), [text for _, text, _ in found]


def trained_alone(folder, *options, **how):
    """The metrics of one process of one device."""
    ((code, _, errors),) = ends(start(*options, processes=1, **how))
    assert code == 0, errors
    return metrics(folder)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return trained_together(tmp_path_factory.mktemp("uninterrupted"), OPTIONS)


def test_two_processes_train_as_one_and_the_first_alone_speaks(tmp_path, uninterrupted):
    alone = trained_alone(tmp_path, *OPTIONS, "--out", tmp_path)
    close(uninterrupted[0], alone, first=1e-5, all_of_them=1e-4)
    first, second = uninterrupted[1]
    assert "finished after 8 steps" in first
    assert second == ""


def step_so_far(folder):
    file = folder / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return json.loads(lines[-1])["step"] if lines and lines[-1].endswith("\n") else 0


def killed(folder, victim, step, *options, **how):
    """Kill one process after a step; the other has to end with a message, and soon. How to go on."""
    running = start(*options, *LAYOUT, "--out", folder, environment=READS_ONLY, **how)
    while step_so_far(folder) < step:
        assert all(process.poll() is None for process in running), ends(running)
        time.sleep(0.005)
    running[victim].send_signal(signal.SIGKILL)
    ((code, _, errors),) = ends([running[1 - victim]], timeout=60)
    assert code == 4, errors
    assert f"error: process {victim} of the 2 of this run is gone; start all of them again with --resume" in errors
    ends([running[victim]])
    return ["--resume" if any((folder / "checkpoints").glob("step_*")) else "--out", folder]


def test_a_killed_process_ends_the_run_and_one_alone_can_go_on(tmp_path, uninterrupted):
    """What four devices of two processes saved, each process its part, one reads."""
    # Several processes save one step late. The third step's checkpoint was begun before the fourth step was recorded,
    # and the second one's was whole by then.
    how = killed(tmp_path / "run", 1, 4, *OPTIONS, "--sharded-saving")
    assert how[0] == "--resume"
    close(trained_alone(tmp_path / "run", *OPTIONS, *how), uninterrupted[0], first=1e-5, all_of_them=1e-4)


@pytest.mark.slow
def test_processes_killed_at_any_step(tmp_path):
    together, _ = trained_together(tmp_path / "together", LONG, script=EXAMPLE)
    alone = trained_alone(tmp_path / "alone", *LONG, "--out", tmp_path / "alone", script=EXAMPLE)
    close(together, alone, first=1e-5, all_of_them=1e-4)
    draw = random.Random(0)
    for i in range(20):
        options = [*LONG, *["--sharded-saving"] * (i % 2)]
        how = killed(tmp_path / str(i), draw.randrange(2), draw.randrange(1, 50), *options, script=EXAMPLE)
        found = ends(start(*options, *LAYOUT, *how, script=EXAMPLE))
        assert [code for code, _, _ in found] == [0, 0], found
        assert metrics(tmp_path / str(i)) == together


def test_a_stop_of_one_process_stops_all_after_the_same_step(tmp_path):
    running = start("--steps", 5000, "--save-every", 1000, "--out", tmp_path / "run")
    while step_so_far(tmp_path / "run") < 5:
        time.sleep(0.01)
    running[1].send_signal(signal.SIGTERM)
    found = ends(running)
    assert [code for code, _, _ in found] == [143, 143], found
    assert len(list((tmp_path / "run" / "checkpoints").glob("step_*"))) == 1


def test_wrong_arguments_and_a_taken_port_are_one_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        here = ["--coordinator", f"127.0.0.1:{taken.getsockname()[1]}"]
        cases = (
            (["--processes", 2], 2, "several processes need all of --coordinator, --processes and --process-id"),
            (["--coordinator", "here", "--processes", 2, "--process-id", 0], 2, "coordinator must be HOST:PORT"),
            (["--coordinator", "127.0.0.1:9", "--processes", 2, "--process-id", 2], 2, "--process-id must be in 0.."),
            (["--devices", 0], 2, "devices must be at least 1; got 0"),
            ([*here, "--processes", 2, "--process-id", 0], 4, "can't be had: Address already in use"),
        )
        found = answers(EXAMPLE, *(["--out", tmp_path / "run", *arguments] for arguments, _, _ in cases))
    for done, (_, code, message) in zip(found, cases, strict=True):
        assert done.returncode == code
        assert done.stderr.count("\n") == 1, done.stderr
        assert message in done.stderr
    assert not (tmp_path / "run").exists()
