"""A SIGTERM that arrives where Python drops what is raised: in JAX's callback of the garbage collector, say."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import gc, os, signal
from training.launch.options import Options, cli

def main(arguments: Options):
    once = []
    def callback(phase, info):
        if not once:
            once.append(1)
            {what}
    gc.callbacks.append(callback)
    gc.collect()

cli(main)
"""


def run(what):
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", CODE.format(what=what)]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)


@pytest.mark.skipif(sys.platform == "win32", reason="has no such signal")
def test_it_ends_the_run_with_one_line():
    done = run("os.kill(os.getpid(), signal.SIGTERM)")
    assert (done.returncode, done.stderr) == (143, "error: terminated\n")


def test_another_error_that_is_dropped_is_shown():
    done = run("raise KeyError('ours')")
    assert done.returncode == 0
    assert "KeyError: 'ours'" in done.stderr
