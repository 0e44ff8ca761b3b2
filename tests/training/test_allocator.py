"""The restart, with real processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from training.launch import allocator

ROOT = Path(__file__).parents[2]
SCRIPT = """
import os, sys
sys.stdout.write("start ")  # buffered: lost, if it were not flushed before the restart
if __name__ == "__main__":
    from training.launch.allocator import restart_with_tuned_allocator
    restart_with_tuned_allocator()
assert "jax" not in sys.modules
print(sys.argv[1:], sys.flags.dev_mode, os.environ.get("GLIBC_TUNABLES"), __spec__ and __spec__.name)
"""

linux = pytest.mark.skipif(
    not (sys.platform.startswith("linux") and allocator._has_glibc()), reason="Linux with glibc only"
)


@pytest.fixture
def script(tmp_path):
    (tmp_path / "example.py").write_text(SCRIPT)
    return tmp_path


def run(folder, *command, **environment):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("GLIBC", "ZOO_ALLOCATOR"))}
    kept["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        env={**kept, **environment},
        cwd=folder,
        timeout=120,
        input=SCRIPT if command[0] == "-" else None,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.replace("start ", "start\n").splitlines()


@linux
def test_starts_again_once_with_the_same_arguments(script):
    lines = run(script, "example.py", "--task", "a b", "")
    assert lines == ["start", "start", f"['--task', 'a b', ''] False {allocator.TUNABLES} None"]


@linux
def test_keeps_the_flags_of_python_and_the_module(script):
    lines = run(script, "-X", "dev", "-W", "error", "-m", "example", "x")
    assert lines == ["start", "start", f"['x'] True {allocator.TUNABLES} example"]


@pytest.mark.parametrize(
    ("arguments", "environment", "tunables"),
    [
        ([allocator.FLAG], {}, None),
        ([], {"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}, "glibc.malloc.arena_max=2"),
        ([], {"GLIBC_TUNABLES": ""}, ""),
        ([], {"ZOO_ALLOCATOR_RESTARTED": "1"}, None),  # even if something took the setting away again
    ],
)
def test_leaves_alone_what_somebody_decided(script, arguments, environment, tunables):
    lines = run(script, "example.py", *arguments, **environment)
    assert lines == ["start", f"{arguments} False {tunables} None"]


def test_program_from_a_pipe_is_not_lost(script):
    lines = run(script, "-", "x")
    assert lines == ["start", "['x'] False None None"]


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_other_systems_are_left_alone(monkeypatch, platform):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("restarted"))
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    allocator.restart_with_tuned_allocator()


def test_other_c_libraries_are_left_alone(monkeypatch):
    def unknown(name):
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "confstr", unknown, raising=False)
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("restarted"))
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    allocator.restart_with_tuned_allocator()


@linux
def test_goes_on_when_a_restart_is_impossible(monkeypatch):
    tried = []

    def refused(path, arguments, environment):
        tried.append((path, arguments, environment["GLIBC_TUNABLES"]))
        raise OSError("not permitted")

    monkeypatch.setattr(os, "execve", refused)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.delenv("ZOO_ALLOCATOR_RESTARTED", raising=False)
    monkeypatch.setattr(sys, "argv", ["example.py"])
    allocator.restart_with_tuned_allocator()
    assert tried == [(sys.executable, [sys.executable, *sys.orig_argv[1:]], allocator.TUNABLES)]
