"""What every test runs under: no silent rank promotion, full float32 products, plots without a screen."""

import ctypes
import gc
import itertools
import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")
# What one worker, process or run has compiled, the others need not.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "jax"))
# With a limit JAX takes a lock; without one it reads what another process is still writing, and crashes.
os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(2**33))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

# A suite started in the background of a script inherits that Ctrl-C is ignored, and so would its processes.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

MOST_MEGABYTES = 1600  # of a process, before it forgets what it has compiled

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")


def pytest_configure(config):
    """The whole suite compiles some ten thousand small programs and runs each once or twice, so it asks XLA for as
    little as it can. A selection by `-m`, and benchmarks, compile what users get: CI runs both kinds."""
    config.pluginmanager.register(_ForgetCompiledAfterEachFile())
    gc.set_threshold(700, 10, 100)  # almost all of it lives as long as the worker; `forget_compiled` looks through it
    measured = config.option.benchmark_enable or config.option.benchmark_only
    if config.option.markexpr != "not slow and not parity" or measured:
        return
    jax.config.update("jax_disable_most_optimizations", True)
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # for what tests start
    if jax.__version_info__ < (0, 11):  # unknown to later ones, which have nothing else; half of what was left
        os.environ["XLA_FLAGS"] = " ".join([
            os.environ.get("XLA_FLAGS", ""), "--xla_cpu_use_fusion_emitters=false",
            "--xla_cpu_parallel_codegen_split_count=1",
        ])  # fmt: skip


# What may depend on versions of Python, JAX and NumPy. Elsewhere single tests are marked: a `fit` of each model.
COMPAT = ("contract/", "sampling/", "test_serialisation.py", "test_format_1.py")


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here) and item.path.relative_to(here).as_posix().startswith(COMPAT):
            item.add_marker("compat")


def pytest_ignore_collect(collection_path):
    """No docstrings are looked for in scripts that tests start: to import one would run its first lines here."""
    if collection_path.suffix == ".py" and not collection_path.name.startswith("test_"):
        return True
    return None


class _ForgetCompiledAfterEachFile:
    """Registered as a plugin: a fixture of this folder would not be there for the docstrings of the packages."""

    @pytest.hookimpl(trylast=True)  # after the fixtures
    def pytest_runtest_teardown(self, item, nextitem):
        if nextitem is None or nextitem.path != item.path:
            _forget_compiled()


@pytest.fixture(scope="session")
def forget_compiled():
    """Call it where what was compiled so far is of little use to what follows: JAX keeps every program for ever.

    The tests of one model hold hundreds of megabytes of them. Also, Linux gives a process 65,530 pieces of memory;
    every program takes some, and XLA crashes beyond. Not more often than needed: it takes a second, and all files
    compile many of the same small programs.
    """
    return _forget_compiled


def _forget_compiled() -> None:
    if _megabytes() > MOST_MEGABYTES:
        jax.clear_caches()
        gc.collect()
        _give_back()


def _megabytes() -> float:
    """The memory that this process holds; infinite where it is not known."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6 if statm.exists() else float("inf")


def _give_back() -> None:
    """Give the system what is free. Importing `training.fit` made this process keep it (`keep_freed_memory`), and a
    process that stays large would forget at every turn."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:  # glibc's
        trim(0)


@pytest.fixture
def getkey():
    """A function that gives a new random key at each call, the same ones in each run."""
    seeds = itertools.count()
    return lambda: jax.random.key(next(seeds))


def on_device(array, dtype):
    """JAX would compile a program for each shape that it converts itself, and for each whose type it is not told."""
    return jnp.asarray(array.astype(dtype), dtype)


@pytest.fixture(scope="session")
def same_bits():
    """Whether two pytrees are equal to the bit, types included. JAX would compile a comparison of each shape."""
    return lambda one, other: eqx.tree_equal(*jax.device_get((one, other)), typematch=True)


@pytest.fixture
def normal():
    """A function that gives a new float32 array of a shape, standard normal: NumPy's, which compiles nothing."""
    rng = np.random.default_rng(0)
    return lambda *shape: on_device(rng.normal(size=shape), jnp.float32)


@pytest.fixture(scope="session")
def fill():
    """`fill(make, seed)` is what `make(key)` makes, but every array is random: also biases and norms, which start
    at zero and one, where a forgotten one would not show. It compiles nothing, where a constructor takes seconds."""

    def fill(make, seed=0, scale=0.4):
        rng = np.random.default_rng(seed)

        def draw(leaf):
            return (
                leaf
                if leaf is None or not hasattr(leaf, "shape")
                else on_device(scale * rng.normal(size=leaf.shape), leaf.dtype)
            )

        return jax.tree.map(draw, eqx.filter_eval_shape(make, jax.random.key(0)))

    return fill


@pytest.fixture
def strict_promotion():
    """Arrays of two types never meet silently. Not for all tests: Optax's Adam fails under it."""
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture
def as_users():
    """Without run-time type checks, as users run it: our own errors answer for wrong arguments."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)
