"""One run in a folder at a time."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.test_checkpoint import names
from tests.training.test_run import finish
from training import Run, RunFolderError
from training.reporting.run_lock import RunLock

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="has no such signals")
ROOT = Path(__file__).parents[2]


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_lock_says_who_and_goes_with_the_run(tmp_path):
    run = Run("sort", tmp_path)
    holder = json.loads((tmp_path / "run.lock").read_text())
    assert (holder["pid"], holder["host"]) == (os.getpid(), socket.gethostname())
    finish(run)
    assert names(tmp_path) == ["run.json", "summary.json"]
    first = Run("sort", tmp_path, overwrite=True)
    first.path("model.safetensors")  # which ends the earlier run
    second = Run("sort", tmp_path)  # of this very process: a cell of a notebook, run again
    del first
    assert "run.lock" in names(tmp_path)
    del second
    assert "run.lock" not in names(tmp_path)


@pytest.fixture
def other_process():
    """A living process that is not this one."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()


def test_a_folder_in_use_is_refused(tmp_path, other_process):
    from training.reporting.run_lock import _started

    Run("sort", tmp_path).log(1, {})
    (tmp_path / "run.lock").unlink(missing_ok=True)
    holder = {"pid": other_process.pid, "host": socket.gethostname(), "since": "2026-01-02 03:04:05"}
    lock = {**holder, "started": _started(other_process.pid)}
    (tmp_path / "run.lock").write_text(json.dumps(lock))
    before = contents(tmp_path)
    message = f"{tmp_path} is in use by pid {other_process.pid} on {socket.gethostname()} since 2026-01-02 03:04:05$"
    with pytest.raises(RunFolderError, match=message):
        Run("sort", tmp_path)
    with pytest.raises(RunFolderError, match=message):
        Run("sort", resume=tmp_path)
    assert contents(tmp_path) == before
    # Of another host nobody knows anything; the message says what to do.
    (tmp_path / "run.lock").write_text(json.dumps({**lock, "host": "elsewhere", "pid": 1}))
    with pytest.raises(RunFolderError, match=r"in use by pid 1 on elsewhere .*if that is dead, delete .*run\.lock"):
        Run("sort", tmp_path)


@pytest.mark.parametrize("kind", ["dead", "id reused", "this process", "empty", "no JSON", "no lock", "wrong types"])
def test_a_lock_of_nobody_is_taken_over(tmp_path, other_process, kind):
    holder = {"pid": other_process.pid, "host": socket.gethostname(), "since": "then", "started": "another boot 1"}
    text = json.dumps(holder)
    if kind == "dead":
        other_process.kill()
        other_process.wait()
    elif kind == "this process":
        text = json.dumps({**holder, "pid": os.getpid()})
    elif kind == "wrong types":
        text = json.dumps({**holder, "pid": "1"})
    elif kind != "id reused":
        text = {"empty": "", "no JSON": "\x00[", "no lock": '{"a": 1}'}[kind]
    (tmp_path / "run.lock").write_text(text)
    lock = RunLock(tmp_path)
    assert json.loads((tmp_path / "run.lock").read_text())["pid"] == os.getpid()
    (tmp_path / "run.lock").write_text(text)  # another one has taken it meanwhile
    lock.release()
    assert (tmp_path / "run.lock").read_text() == text


def test_of_many_that_find_a_dead_lock_one_takes_it(tmp_path, other_process):
    other_process.kill()
    other_process.wait()
    dead = {"pid": other_process.pid, "host": socket.gethostname(), "since": "then", "started": None}
    # Whoever has looked at the lock dawdles, so that without care the others would see the same dead one.
    code = f"""
import sys, pathlib, time, training.reporting.run_lock
from training.reporting.run_lock import RunLock, _holder
training.reporting.run_lock._holder = lambda path: (_holder(path), time.sleep(0.2))[0]
sys.stdin.readline()
try:
    lock = RunLock(pathlib.Path({str(tmp_path)!r}))
    print("got it", flush=True)
except BlockingIOError:
    print("refused", flush=True)
sys.stdin.readline()
"""
    (tmp_path / "run.lock").write_text(json.dumps(dead))
    command = [sys.executable, "-c", code]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    processes = [subprocess.Popen(command, **pipes) for _ in range(3)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    answers = [process.stdout.readline() for process in processes if process.stdout is not None]
    for process in processes:
        process.communicate()
    assert sorted(answers) == ["got it\n"] + 2 * ["refused\n"]
