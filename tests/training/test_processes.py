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

ROOT = Path(__file__).parents[2]
EXAMPLE = [sys.executable, str(ROOT / "examples" / "sequence_tasks.py")]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(*arguments, processes=2, address=None):
    """The processes of a run, or of one part of it."""
    address = address or f"127.0.0.1:{free_port()}"
    # Without the suite's cache of compiled functions: a process that is killed may leave half an entry.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environment |= {"PYTHONPATH": str(ROOT), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # compiles faster
    together = [] if processes == 1 else ["--coordinator", address, "--processes", str(processes)]
    return [
        subprocess.Popen(
            [*EXAMPLE, *map(str, arguments), *together, *(["--process-id", str(i)] if together else [])],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
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


OPTIONS = ["--smoke", "--steps", 24, "--save-every", 8]
LONG = ["--smoke", "--steps", 60, "--save-every", 15]
LAYOUT = ["--devices", 2, "--fsdp"]


def trained_together(folder, options):
    """The metrics of two processes of two devices each, and what they said."""
    found = ends(start(*options, *LAYOUT, "--out", folder))
    assert [code for code, _, _ in found] == [0, 0], found
    return metrics(folder), [text for _, text, _ in found]


def trained_alone(folder, *options):
    """The metrics of one process of one device."""
    ((code, _, errors),) = ends(start(*options, processes=1))
    assert code == 0, errors
    return metrics(folder)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return trained_together(tmp_path_factory.mktemp("uninterrupted"), OPTIONS)


def test_two_processes_train_as_one_and_the_first_alone_speaks(tmp_path, uninterrupted):
    alone = trained_alone(tmp_path, *OPTIONS, "--out", tmp_path)
    close(uninterrupted[0], alone, first=1e-5, all_of_them=1e-4)
    first, second = uninterrupted[1]
    assert "exact match on" in first
    assert second == ""


def metrics_so_far(folder):
    file = folder / "metrics.jsonl"
    return file.read_text().splitlines() if file.exists() else []


def killed(folder, victim, step, *options):
    """Kill one process after a step; the other has to end with a message, and soon. How to go on."""
    running = start(*options, *LAYOUT, "--out", folder)
    while len(metrics_so_far(folder)) < step:
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
    how = killed(tmp_path / "run", 1, 18, *OPTIONS, "--sharded-saving")
    assert how[0] == "--resume"
    close(trained_alone(tmp_path / "run", *OPTIONS, *how), uninterrupted[0], first=1e-5, all_of_them=1e-4)


@pytest.mark.slow
def test_processes_killed_at_any_step(tmp_path):
    together, _ = trained_together(tmp_path / "together", LONG)
    close(
        together, trained_alone(tmp_path / "alone", *LONG, "--out", tmp_path / "alone"), first=1e-5, all_of_them=1e-4
    )
    draw = random.Random(0)
    for i in range(20):
        options = [*LONG, *["--sharded-saving"] * (i % 2)]
        how = killed(tmp_path / str(i), draw.randrange(2), draw.randrange(1, 60), *options)
        found = ends(start(*options, *LAYOUT, *how))
        assert [code for code, _, _ in found] == [0, 0], found
        assert metrics(tmp_path / str(i)) == together


def test_a_stop_of_one_process_stops_all_after_the_same_step(tmp_path):
    running = start("--steps", 5000, "--save-every", 1000, "--out", tmp_path / "run")
    while len(metrics_so_far(tmp_path / "run")) < 5:
        time.sleep(0.01)
    running[1].send_signal(signal.SIGTERM)
    found = ends(running)
    assert [code for code, _, _ in found] == [143, 143], found
    assert len(list((tmp_path / "run" / "checkpoints").glob("step_*"))) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--processes", "2"], "several processes need all of --coordinator, --processes and --process-id"),
        (["--coordinator", "here", "--processes", "2", "--process-id", "0"], "coordinator must be HOST:PORT"),
        (["--coordinator", "127.0.0.1:9", "--processes", "2", "--process-id", "2"], "--process-id must be in 0.."),
        (["--devices", "0"], "devices must be at least 1; got 0"),
    ],
)
def test_wrong_arguments_are_one_line(tmp_path, arguments, message):
    ((code, _, errors),) = ends(start("--out", tmp_path / "run", *arguments, processes=1))
    assert code == 2
    assert errors.count("\n") == 1
    assert message in errors
    assert not (tmp_path / "run").exists()


def test_a_taken_port_is_said(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        arguments = ["--coordinator", address, "--processes", "2", "--process-id", "0", "--out", tmp_path / "run"]
        ((code, _, errors),) = ends(start(*arguments, processes=1))
    assert (code, errors.count("\n")) == (4, 1), errors
    assert "can't be had: Address already in use" in errors
