"""Freed memory that a process keeps: with real processes, since what glibc does can only be seen from outside."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from training.launch import allocator
from training.launch.allocator import keep_freed_memory

ROOT = Path(__file__).parents[2]
# What blocks of 40 MB cost when they are made and freed again and again: pages that the system has to give.
FAULTS = """
import ctypes, json, mmap, resource, threading
import numpy as np
from training.launch.allocator import keep_freed_memory

ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: small pages, whatever the system would like

def faults(times=5):
    def work():
        for _ in range(times):
            block = np.empty(40_000_000, np.uint8)
            block[:: mmap.PAGESIZE] = 1
            del block
    work()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
"""

linux = pytest.mark.skipif(not allocator._has_glibc(), reason="Linux with glibc only")


def run(code, **environment):
    """What a process of its own prints last."""
    chosen = ("GLIBC", "MALLOC_", "ZOO_ALLOCATOR")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(chosen)}
    kept |= {"PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS + code], capture_output=True, text=True, env=kept, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout.splitlines()[-1])


@linux
def test_freed_memory_is_kept():
    before, done, after, again = run(
        "print(json.dumps([faults(), keep_freed_memory(), faults(), keep_freed_memory() and faults()]))"
    )
    assert done is True
    assert before > 5 * 1000  # of nearly 10,000 pages each
    assert after < before / 50
    assert again < before / 50  # a second call changes nothing


@linux
def test_importing_fit_is_enough():
    assert run("from training import fit\nprint(faults())") < 100  # of nearly 10,000 pages each


@linux
@pytest.mark.slow
def test_importing_fit_is_enough_for_what_xla_computes():
    """Blocks of 40 MB, which XLA asks for in threads of its own. The heap needs some rounds to have room for all."""
    code = """
import jax, jax.numpy as jnp
{}
jax.config.update("jax_enable_compilation_cache", False)
x, w, steps = jnp.ones((1_000_000, 10)), jnp.eye(10), []

@jax.jit
def step(x):
    for _ in range(2):
        x = jnp.abs(x @ w)
    return x

for _ in range(14):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    x = step(x).block_until_ready()
    steps.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(json.dumps(sorted(steps[9:])[2]))
"""
    kept, freed = run(code.format("from training import fit")), run(code.format(""))
    assert freed > 10_000
    assert kept < freed / 4


@linux
def test_threads_and_children_have_it_as_well():
    code = """
import os
assert keep_freed_memory()
found = []
thread = threading.Thread(target=lambda: found.append(faults()))
thread.start(); thread.join()
reading, writing = os.pipe()
if os.fork() == 0:
    os.write(writing, str(faults()).encode())
    os._exit(0)
os.wait()
found.append(int(os.read(reading, 100)))
print(json.dumps(found))
"""
    of_a_thread, of_a_child = run(code)
    assert of_a_thread < 1000
    assert of_a_child < 1000


@linux
@pytest.mark.parametrize(
    "environment",
    [
        {"ZOO_ALLOCATOR": "0"},
        {"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"},
        {"GLIBC_TUNABLES": ""},
        {"MALLOC_ARENA_MAX": "2"},
        {"MALLOC_TRIM_THRESHOLD_": "131072"},
    ],
)
def test_leaves_alone_what_somebody_decided(environment):
    before, done, after = run("print(json.dumps([faults(), keep_freed_memory(), faults()]))", **environment)
    assert done is False
    assert after > before / 2


@pytest.fixture
def nothing_chosen(monkeypatch):
    """As where nobody set anything, and with a C library that must not be touched."""
    import ctypes

    for name in [*os.environ]:
        if name.startswith(("GLIBC_TUNABLES", "MALLOC_", "ZOO_ALLOCATOR")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(ctypes, "CDLL", lambda *_: pytest.fail("touched"))


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_other_systems_are_left_alone(nothing_chosen, monkeypatch, platform):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.delattr(os, "confstr", raising=False)  # Windows has none
    assert not keep_freed_memory()


def test_other_c_libraries_are_left_alone(nothing_chosen, monkeypatch):
    def unknown(name):
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "confstr", unknown, raising=False)
    assert not keep_freed_memory()
    monkeypatch.setattr(os, "confstr", lambda name: None, raising=False)
    assert not keep_freed_memory()


def test_a_c_library_that_refuses_is_no_error(nothing_chosen, monkeypatch):
    import ctypes

    class Library:
        def mallopt(self, parameter, value):
            return 0

    monkeypatch.setattr(allocator, "_has_glibc", lambda: True)
    for library in (Library, object):
        monkeypatch.setattr(ctypes, "CDLL", lambda name, library=library: library())
        assert not keep_freed_memory()
    monkeypatch.setitem(sys.modules, "ctypes", None)
    assert not keep_freed_memory()


def test_where_jax_computes_on_an_accelerator_the_host_is_left_alone(nothing_chosen, monkeypatch, tmp_path):
    """On a GPU machine the host's threads waited for the one heap: training was several times slower."""
    monkeypatch.setattr(allocator, "_has_glibc", lambda: True)
    for platforms in ("cuda", "tpu,cpu", "rocm"):
        monkeypatch.setenv("JAX_PLATFORMS", platforms)
        assert not keep_freed_memory()
    monkeypatch.setenv("JAX_PLATFORMS", "")
    (tmp_path / "jax_plugins" / "xla_cuda13").mkdir(parents=True)  # a namespace package, as JAX's own plugins are
    monkeypatch.syspath_prepend(tmp_path)
    assert not keep_freed_memory()
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert allocator._computes_on_cpu()
