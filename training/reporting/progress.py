"""What is shown while a model trains: a progress bar on a terminal, plain lines everywhere else."""

import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np


class PhaseTimer:
    """Seconds by phase, since it was made."""

    def __init__(self):
        self._begun = time.perf_counter()
        self._phases = {"compile": 0.0, "train": 0.0, "evaluate": 0.0, "data": 0.0, "save": 0.0}

    def add(self, seconds: Mapping[str, float]) -> None:
        """Count what an earlier part of the run took, as its `seconds()` gave it."""
        for phase in self._phases:
            self._phases[phase] += seconds.get(phase, 0.0)
        self._begun -= seconds.get("total", 0.0)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Count what happens inside as a phase."""
        begun = time.perf_counter()
        yield
        self._phases[phase] += time.perf_counter() - begun

    def seconds(self) -> dict[str, float]:
        """Seconds of each phase; what belongs to no other phase is training."""
        total = time.perf_counter() - self._begun
        others = sum(seconds for phase, seconds in self._phases.items() if phase != "train")
        seconds = {**self._phases, "train": total - others, "total": total}
        return {phase: round(value, 4) for phase, value in seconds.items()}


class ProgressBar:
    """Shows steps, loss, validation loss and speed.

    Args:
        steps: the last step, or None if that is not known.
        timer: knows how much of the time was training.
        start: number of steps made before.
        log_every: steps between two lines (and between two lines of timing.jsonl).
        patience: seconds of training after which a line is due in any case.
        timing: called with each line's step and speed.
    """

    def __init__(
        self,
        steps: int | None,
        timer: PhaseTimer,
        *,
        start: int,
        log_every: int,
        patience: float = math.inf,
        timing: Callable[[dict[str, Any]], None] | None,
    ):
        self._log_every, self._patience = log_every, patience
        self.steps = steps
        self._timer = timer
        self._timing = timing
        self._last_step, self._last_time = start, self._training_time()
        self._losses: list[float] = []
        self._tokens = 0.0
        self._bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=steps, initial=start, unit="step", dynamic_ncols=True)

    def step(self, loss: Any, tokens: float = 0.0) -> None:
        """Count one step; its loss is a number, or a list of them for an ensemble; tokens are those it predicted."""
        self._losses.append(_mean(loss))
        self._tokens += tokens
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {self._losses[-1]:.4f}", refresh=False)
            self._bar.update()

    def is_due(self, step: int) -> bool:
        """Whether a line should be shown after this step."""
        return step % self._log_every == 0 or self._training_time() - self._last_time >= self._patience

    def line(self, step: int, evaluation: str = "") -> None:
        """Show where training stands: the mean loss since the last line, an evaluation if any, the speed."""
        if step == self._last_step:
            return
        now = self._training_time()
        steps, since = step - self._last_step, now - self._last_time
        if self._timing is not None:
            record = {"step": step, "seconds": self._timer.seconds()["total"]}
            self._timing(record | ({"steps_per_second": round(steps / since, 3)} if since > 0 else {}))
        of = f"/{self.steps}" if self.steps is not None else ""
        loss = f"loss {np.mean(self._losses):.4f}"
        text = f"step {step:>{len(of[1:])}}{of}  {loss}{evaluation}{speed(steps, self._tokens, since)}"
        if self._bar is None or evaluation:
            self.write(text)
        self._last_step, self._last_time, self._losses, self._tokens = step, now, [], 0.0

    @contextmanager
    def phase(self, name: str, *, patience: float = 3.0) -> Iterator[None]:
        """Say what takes time without being a step: in the bar, elsewhere in a line if it takes so many seconds."""
        said = threading.Timer(patience, self.write, [f"{name} ..."])
        said.daemon = True
        if self._bar is None:
            said.start()
        else:
            self._bar.set_description_str(name)
        try:
            yield
        finally:
            said.cancel()
            if self._bar is not None:
                self._bar.set_description_str()

    def _training_time(self) -> float:
        """Neither compilation, evaluation nor saving counts for the speed."""
        seconds = self._timer.seconds()
        return seconds["train"] + seconds["data"]

    def write(self, text: str) -> None:
        """Show a text without disturbing the bar; characters that the output can't encode are replaced."""
        text = _encodable(text, sys.stdout)
        if self._bar is None:
            print(text, flush=True)
        else:
            self._bar.write(text)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def speed(steps: int, tokens: float, seconds: float) -> str:
    """How fast it was, for a line; nothing after so short a time that the figure would be chance.

    Example:
        >>> speed(30, 0.0, 0.1), speed(1, 2048.0, 4.0), speed(1, 0.0, 0.001)
        ('  300 steps/s', '  4.0 s/step, 512 tokens/s', '')
    """
    if seconds < 0.02:
        return ""
    rate = steps / seconds
    text = (
        f"{rate:.3g} steps/s"
        if 1 <= rate < 100
        else f"{rate:,.0f} steps/s"
        if rate >= 1
        else f"{1 / rate:.1f} s/step"
    )
    return f"  {text}" + (f", {tokens / seconds:,.0f} tokens/s" if tokens else "")


def _encodable(text: str, stream: Any) -> str:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        text.encode(encoding, stream.errors or "strict")
    except UnicodeEncodeError:
        return text.encode(encoding, "replace").decode(encoding)
    except (AttributeError, LookupError):  # a stream that does not say how it encodes, as in a notebook
        pass
    return text


def _mean(values: Any) -> float:
    """Mean of those members of an ensemble that are finite."""
    values = np.atleast_1d(values)
    finite = values[np.isfinite(values)]
    return float(np.mean(finite)) if len(finite) else float("nan")
