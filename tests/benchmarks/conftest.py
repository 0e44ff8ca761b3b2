"""How the benchmarks measure: every function in turns with what it is compared to, on one machine at one time.

    python -m pytest tests/benchmarks -n 0 --benchmark-enable --benchmark-only

measures, at the sizes that the figures are about, and prints one line for each comparison. No assertion is about
time. In the ordinary suite nothing is measured: each benchmark runs once, small, and both versions have to agree.
"""

import statistics
import time
from collections.abc import Callable

import jax
import jaxtyping
import pytest

from training import keep_freed_memory

collect_ignore = ["plain_flax.py", "plain_torch.py"]  # no tests in them; Flax and PyTorch are an extra

Run = Callable[[], object]
LINES = pytest.StashKey[list[str]]()


def milliseconds(run: Run) -> float:
    """How long one call takes. The function waits for its own result."""
    begun = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - begun)


@pytest.fixture
def full_size(benchmark):
    """Whether this is a measurement, at full size, rather than a run of the suite."""
    return benchmark.enabled


@pytest.fixture(autouse=True)
def _as_users_run_it(full_size):
    """A measurement is made without the suite's type checks and with JAX's own precision; it compiles afresh, and the
    process keeps freed memory, as in `fit`: both versions that are compared have it."""
    if not full_size:
        yield
        return
    keep_freed_memory()
    before = jaxtyping.config.jaxtyping_disable, jax.config.jax_enable_compilation_cache
    jaxtyping.config.update("jaxtyping_disable", True)
    jax.config.update("jax_enable_compilation_cache", False)
    with jax.default_matmul_precision("default"):
        yield
    jaxtyping.config.update("jaxtyping_disable", before[0])
    jax.config.update("jax_enable_compilation_cache", before[1])


@pytest.fixture
def note(benchmark, request):
    """`note(line, **figures)` prints a line at the end and keeps the figures in the benchmark's `extra_info`."""

    def note(line: str, **figures: float) -> None:
        benchmark.extra_info |= {"line": line, **figures}
        request.config.stash.setdefault(LINES, []).append(line)

    return note


@pytest.fixture
def race(benchmark):
    """`race(ours, other, ...)` runs all in turns and returns the median time of each, in ms; None in the suite.

    The machine's speed drifts by more than what is measured, so a round is a call of each. A call before it, which
    is not measured, brings its data into the caches and its threads to life.
    """

    def race(ours: Run, *others: Run, rounds: int = 20) -> list[float] | None:
        times: list[list[float]] = [[] for _ in others]

        def others_first() -> None:
            for run, measured in zip(others, times, strict=True):
                run()
                measured.append(milliseconds(run))
            ours()

        if benchmark.disabled:
            benchmark(ours)
            return None
        others_first()  # compiles
        for measured in times:
            measured.clear()
        benchmark.pedantic(ours, setup=others_first, rounds=rounds)
        return [1e3 * benchmark.stats.stats.median, *map(statistics.median, times)]

    return race


@pytest.fixture
def compare(race, note):
    """`compare(name, ours, naive)` races the two and notes how many times faster ours is."""

    def compare(name: str, ours: Run, naive: Run, *, rounds: int = 20) -> None:
        medians = race(ours, naive, rounds=rounds)
        if medians is not None:
            a, b = medians
            line = f"{name}: {b / a:.2f} times faster ({a:.3g} ms against {b:.3g} ms)"
            note(line, times_faster=b / a, ms=a, naive_ms=b)

    return compare


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    lines = config.stash.get(LINES, [])
    if not lines:
        return
    terminalreporter.section("speed (medians, measured in turns)")
    for line in lines:
        terminalreporter.line(line)
