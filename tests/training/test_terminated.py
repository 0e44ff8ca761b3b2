"""SIGTERM at any instant, from a script's first line to its last: exit code 143, and what was trained is saved."""

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.training.test_killed import rest
from training import read_checkpoint

ROOT = Path(__file__).parents[2]
SCRIPT = str(Path(__file__).with_name("killed_training.py"))
STEPS = 40

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="needs to see from outside whether a process has a handler"
)


def start(*command):
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        # Not the suite's: who is killed may leave half an entry.
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".pytest_cache" / "jax_of_the_killed"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    return subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def catches_sigterm(process):
    """Whether the process has a handler for it; before the script's first line Python has none."""
    caught = re.search(r"SigCgt:\s+(\w+)", Path(f"/proc/{process.pid}/status").read_text())
    return caught is not None and bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


def until_handled(process):
    while process.poll() is None and not catches_sigterm(process):
        time.sleep(0.001)


def until_said(process, text):
    """What it says until then, or in all."""
    said = []
    for line in process.stdout:
        said.append(line)
        if text in line:
            break
    return "".join(said)


def terminate_again_and_again(folder, times, seed, busy=0):
    """A run is terminated in start-up, in training and in tear-down, in turns, and goes on until it has ended."""
    rng, run = random.Random(seed), folder / "run"
    load = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        for i in range(times):
            process, said = start(SCRIPT, "--out", str(run), "--resume", "--pause", "0.02", "--curves"), ""
            until_handled(process)
            if i % 3:
                said = until_said(process, "step" if i % 3 == 1 else "finished")
            if i:  # the first one in the first line of all
                time.sleep(rng.uniform(0, (3.0, 0.7, 0.3)[i % 3]))
            process.send_signal(signal.SIGTERM)
            out, errors = rest(process)
            said += out
            assert process.returncode in ((0, 143) if i else (143,))
            if process.returncode == 0:  # it came too late, when Python itself cleaned up
                assert said.splitlines()[-1].startswith(f"finished {STEPS} ")
                assert errors in ("", "finishing the step and saving; once more to stop at once\n")
            else:
                assert errors.splitlines()[-1].startswith("error: terminated"), errors
                assert "Traceback" not in errors
            if run.exists() and (run / "metrics.jsonl").exists():
                check_saved(run)
            if "finished" in said:
                shutil.rmtree(run)
    finally:
        for process in load:
            process.kill()
            process.wait()


def check_saved(run):
    """Every step that was made."""
    recorded = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert read_checkpoint(run / "checkpoints", on_broken=fail).step == recorded[-1]


def fail(path, error):
    raise error


@pytest.mark.slow  # in training it is in test_killed.py, and what is hardest of start-up and tear-down is below
def test_terminated_at_random_instants(tmp_path):
    terminate_again_and_again(tmp_path, 3, seed=0)


@pytest.mark.slow
def test_terminated_two_hundred_times_under_load(tmp_path):
    terminate_again_and_again(tmp_path, 200, seed=1, busy=os.cpu_count() or 1)


def run(code):
    process = start("-c", "import os, signal\nfrom training.launch.stop_signals import *\n" + code)
    out, errors = process.communicate(timeout=120)
    return process.returncode, out, errors


TERM = "os.kill(os.getpid(), signal.SIGTERM)\n"


def test_it_is_not_swallowed_where_imports_fail_softly():
    code = f"handle_sigterm()\ntry:\n    {TERM}except BaseException:\n    pass\nprint('went on')"
    assert run(code) == (143, "", "error: terminated\n")


def test_what_is_raised_where_python_drops_it_is_raised_again():
    code = f"""
class Dropped:
    def __del__(self):
        {TERM}
def main():
    del_me = Dropped()
    del del_me
    print("went on", flush=True)
    with StopSignals(active={{}}):
        print("trained")
import sys
from training.launch.options import cli
cli(main)
"""
    for active, said in ((True, "went on\n"), (False, "went on\ntrained\n")):
        code_, out, errors = run(code.format(active))
        assert (code_, out, errors.splitlines()[-1]) == (143, said, "error: terminated")


def test_it_comes_too_late_once_all_is_done():
    """When Python has given the signals back to the system: in the destructor of what lives until then."""
    code = """
import sys
class Last:
    def __del__(self, kill=os.kill, pid=os.getpid(), number=signal.SIGTERM):
        kill(pid, number)
sys.last = Last()
from training.launch.options import cli
handle_sigterm()
cli(lambda: print("done"))
"""
    assert run(code) == (0, "done\n", "")


def test_an_ignored_one_stays_ignored_and_other_threads_change_nothing():
    code = f"signal.signal(signal.SIGTERM, signal.SIG_IGN)\nhandle_sigterm()\n{TERM}print('went on')"
    assert run(code) == (0, "went on\n", "")
    code = f"import threading\nt = threading.Thread(target=handle_sigterm)\nt.start()\nt.join()\n{TERM}"
    assert run(code)[0] == -signal.SIGTERM


def test_processes_that_meet_keep_the_handler():
    """JAX has one of its own, which only takes a note."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = f"""
handle_sigterm()
from training.devices.processes import initialize_distributed
initialize_distributed("127.0.0.1:{port}", 1, 0)
{TERM}
"""
    code, _, errors = run(code)
    assert (code, errors.splitlines()[-1]) == (143, "error: terminated")
