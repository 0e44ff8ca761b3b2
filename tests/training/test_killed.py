"""Signals and kills: within this process, and to real trainings that then resume as if nothing had happened."""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.training import killed_training
from tests.training.test_checkpoint import names
from training import cli, read_checkpoint
from training.launch.stop_signals import StopSignals

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="has no such signals")
ROOT = Path(__file__).parents[2]
SCRIPT = str(Path(__file__).with_name("killed_training.py"))


def test_signals_wait_and_a_second_one_does_not():
    class Stop(BaseException):
        pass

    def stop(number, frame):
        raise Stop

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with StopSignals(active=True) as signals:
            signal.raise_signal(signal.SIGTERM)
            assert signals.received == signal.SIGTERM
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            with pytest.raises(Stop):
                signals.deliver()
        assert signal.getsignal(signal.SIGTERM) is stop
        with StopSignals(active=True) as signals:
            signals.deliver()  # nothing came
        with StopSignals(active=False), pytest.raises(Stop):
            signal.raise_signal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with StopSignals(active=True) as signals:
            signal.raise_signal(signal.SIGTERM)
            with pytest.raises(SystemExit) as left:
                signals.deliver()
            assert left.value.code == 143
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with StopSignals(active=True) as signals:
            signal.raise_signal(signal.SIGTERM)
            assert signals.received is None
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def command():
    """The command line of a tiny training in a folder; what one of them has compiled, the others need not."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        # Not the suite's: who is killed may leave half an entry.
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".pytest_cache" / "jax_of_the_killed"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }

    def command(folder, *arguments, finish=True):
        process = subprocess.Popen(
            [sys.executable, SCRIPT, "--out", str(folder), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        if not finish:
            return process
        out, errors = process.communicate(timeout=120)
        return process.returncode, out.splitlines(), errors

    return command


@pytest.fixture(scope="module")
def uninterrupted(command, tmp_path_factory):
    """The last line of a training that nothing happened to: steps, and the hash of all that it made."""
    code, out, errors = command(tmp_path_factory.mktemp("runs") / "whole")
    assert code == 0, errors
    assert out[-1].startswith("finished 40 ")
    return out[-1]


def wait_for(process, text):
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"{text!r} never came: {process.stderr.read()}")


def rest(process):
    """What a process still has to say until it ends; `communicate` would lose what was read ahead with a line."""
    out, errors = process.stdout.read(), process.stderr.read()
    process.wait(timeout=60)
    return out, errors


def test_terminated_refused_resumed(command, uninterrupted, tmp_path):
    (hold := tmp_path / "hold").touch()
    process = command(tmp_path / "run", "--hold", str(hold), finish=False)
    wait_for(process, "step  4/40")
    code, _, errors = command(tmp_path / "run")
    assert (code, errors.count("\n")) == (2, 1)
    assert f"error: {tmp_path / 'run'} is in use by pid {process.pid} on {socket.gethostname()} since 20" in errors
    process.send_signal(signal.SIGTERM)
    assert process.stderr.readline() == "finishing the step and saving; once more to stop at once\n"
    hold.unlink()
    out, errors = rest(process)
    assert process.returncode == 143
    assert errors == f"error: terminated; go on with: python {SCRIPT} --resume {tmp_path / 'run'}\n"
    stopped = int(out.splitlines()[-1].removeprefix("stopped after step ").removesuffix(", which is saved"))
    assert read_checkpoint(tmp_path / "run" / "checkpoints").step == stopped
    best = read_checkpoint(tmp_path / "run" / "checkpoints")._arrays["best.model.b"]
    np.testing.assert_array_equal(np.load(tmp_path / "run" / "best.npy"), best)  # as an example keeps its model
    assert sorted(names(tmp_path / "run")) == [
        "best.npy",
        "checkpoints",
        "metrics.jsonl",
        "run.json",
        "samples.txt",
        "timing.jsonl",
    ]

    code, out, errors = command(tmp_path / "run", "--resume")
    assert (code, errors) == (0, "")
    assert out[-1] == uninterrupted
    assert "run.lock" not in names(tmp_path / "run")
    code, out, _ = command(tmp_path / "run", "--resume")  # of a run that has ended nothing changes
    assert (code, out[-1]) == (0, uninterrupted)


@pytest.mark.slow  # Ctrl-C is the signal above by another name; once and twice within a process is the first test
def test_interrupted_twice_and_once(command, uninterrupted, tmp_path):
    run = tmp_path / "run"
    process = command(run, "--pause", "600", finish=False)
    wait_for(process, "step  4/40")  # it sleeps now
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline().startswith("finishing the step")
    # One that comes just before Python goes back to sleep is heard only after it: as a person would, try again.
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
    _, errors = rest(process)
    assert (process.returncode, errors) == (130, "error: interrupted\n")
    assert names(run / "checkpoints") == ["step_00000003"]
    assert "run.lock" not in names(run)

    process = command(run, "--resume", "--pause", "0.2", finish=False)
    wait_for(process, "after 4")
    process.send_signal(signal.SIGINT)
    _, errors = rest(process)
    last = f"error: interrupted; go on with: python {SCRIPT} --resume {run}"
    assert (process.returncode, errors.splitlines()[-1]) == (130, last)
    assert read_checkpoint(run / "checkpoints").step >= 4
    assert command(run, "--resume")[1][-1] == uninterrupted


def test_errors_of_checkpoints_have_their_code(tmp_path, monkeypatch, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text('{"example": "killed", "format": 1}')
    (tmp_path / "run" / "checkpoints").write_text("no folder")
    monkeypatch.setattr(sys, "argv", ["killed_training.py", "--out", str(tmp_path / "run"), "--curves"])
    with pytest.raises(SystemExit) as end:
        cli(killed_training.main)
    assert end.value.code == 5
    assert capsys.readouterr().err == (
        f"error: {tmp_path}/run/checkpoints/step_00000003 could not be written: "
        "Not a directory; older checkpoints are as they were\n"
    )
    assert "run.lock" not in names(tmp_path / "run")


MODELS = ("transformer_lm", "char_rnn", "encoder_decoder", "transformer_classifier", "text_convnet")


def kill_again_and_again(command, folder, expected, kills, seed, model="linear"):
    """Kill trainings at random instants, and go on, until so many were killed; each that ends has to end alike."""
    rng = random.Random(seed)
    killed, ended = 0, 0
    run = folder / "run"
    while killed < kills or run.exists():
        before = -1
        if run.exists() and any((run / "checkpoints").glob("step_*")):
            before = read_checkpoint(run / "checkpoints", on_broken=fail).step
        arguments = ("--resume", "--pause", "0.02", "--model", model)
        process, first = command(run, *arguments, finish=False), ""
        if killed < kills:
            first = process.stdout.readline()  # training has begun
            time.sleep(rng.uniform(0, 0.7))
            process.send_signal(signal.SIGKILL)
        out, errors = rest(process)
        if process.returncode == 0:
            assert (first + out).splitlines()[-1] == expected
            ended += 1
            shutil.rmtree(run)
            continue
        assert process.returncode == -signal.SIGKILL, errors
        killed += 1
        if not any((run / "checkpoints").glob("step_*")):
            assert before == -1  # nothing is ever lost
            continue
        saved = read_checkpoint(run / "checkpoints", on_broken=fail).step
        recorded = [
            json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines(True) if line[-1] == "\n"
        ]
        assert before <= saved
        assert recorded[-1]["step"] - saved <= 3 + 1  # an interval; a step is saved right after it is recorded
    assert ended >= 1


def fail(path, error):
    raise error


# A kill at one instant is in test_processes.py, all that a kill can leave behind in test_checkpoint_damage.py.
@pytest.mark.slow
def test_killed_at_random_instants(command, uninterrupted, tmp_path):
    kill_again_and_again(command, tmp_path, uninterrupted, 2, seed=0)


@pytest.mark.slow
def test_killed_two_hundred_times(command, uninterrupted, tmp_path):
    kill_again_and_again(command, tmp_path, uninterrupted, 200, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_every_models_loop_killed_forty_times(command, tmp_path, model):
    code, out, errors = command(tmp_path / "whole", "--model", model)
    assert code == 0, errors
    kill_again_and_again(command, tmp_path, out[-1], 40, seed=2, model=model)
