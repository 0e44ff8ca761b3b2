"""SIGTERM from a script's first line to its last, and SIGTERM and Ctrl-C that wait until a step is saved.

While the imports run and after `main` has ended, SIGTERM ends the process at once with exit code 143, since there is
nothing to save. Within `main` it raises `Terminated`, and while `fit` saves checkpoints it waits for the step. In
between no instant is left to the system's default, which kills. Nothing here imports JAX.
"""

import atexit
import contextlib
import functools
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any, NoReturn

_raised = False  # whether SIGTERM raised an exception, which might get lost on its way


class Terminated(BaseException):
    """SIGTERM arrived."""


def handle_sigterm() -> None:
    """From here on SIGTERM ends this process with exit code 143 and one line; `cli` and `fit` then do it more gently.

    To be called first thing in a script, under `if __name__ == "__main__":` and before imports that take seconds.
    Handlers belong to the main thread: in another one nothing happens. A SIGTERM that is ignored stays so.
    """
    _answer_with(_end)
    _ignore_in_the_end()


def raise_on_sigterm() -> None:
    """From here on SIGTERM raises `Terminated`, until `handle_sigterm` is called again."""
    global _raised
    _raised = False
    handle_sigterm()
    _pass_over_dropped_ones()
    _answer_with(_raise)


def check_terminated() -> None:
    """Raise `Terminated` once more if SIGTERM did before: Python drops what is raised in a destructor or callback."""
    if _raised:
        raise Terminated


def _answer_with(handler: Any) -> None:
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread and signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
        signal.signal(signal.SIGTERM, handler)


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    global _raised
    _raised = True
    raise Terminated


@functools.cache
def _pass_over_dropped_ones() -> None:
    """No traceback of a `Terminated` that Python drops, in JAX's callback of the garbage collector, say."""
    before = sys.unraisablehook

    def hook(dropped: Any) -> None:
        if not issubclass(dropped.exc_type, Terminated):  # that one is raised again, by `check_terminated`
            before(dropped)

    sys.unraisablehook = hook


def _end(number: int, frame: FrameType | None) -> NoReturn:
    # Not an exception, which would interrupt an import or what is to be done at exit, and could be swallowed there.
    with contextlib.suppress(OSError):
        os.write(2, b"error: terminated\n")
    os._exit(128 + number)


@functools.cache
def _ignore_in_the_end() -> None:
    """Before Python tears itself down, it gives signals back to the system, which would kill what is long done."""
    # The first that is registered is the last that runs.
    atexit.register(lambda: _answer_with(signal.SIG_IGN) if signal.getsignal(signal.SIGTERM) is _end else None)


class StopSignals:
    """Within it the first SIGTERM or SIGINT is remembered; a second one does at once what it would have done outside.
    One that nobody delivered has its effect at the end.

    Handlers belong to the main thread: in another one, or when not `active`, nothing changes. A signal that is
    ignored, as under `nohup`, stays ignored.
    """

    def __init__(self, *, active: bool):
        self.received: int | None = None
        self._active = active and threading.current_thread() is threading.main_thread()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if self._active:
            check_terminated()
            for number in (signal.SIGTERM, signal.SIGINT):
                before = signal.getsignal(number)
                if before not in (signal.SIG_IGN, None):  # None: not Python's to give back
                    self._before[number] = before
                    signal.signal(number, self._remember)
        return self

    def __exit__(self, *exception: Any) -> None:
        self._restore()  # first: what comes now is no longer remembered
        if exception[0] is None:
            self.deliver()

    def deliver(self) -> None:
        """Do what the remembered signal would have done: call its handler, or leave with its exit code."""
        if self.received is not None:
            self._restore()
            received, self.received = self.received, None
            self._act(received, None)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            self._act(number, frame)
        self.received = number
        # Not print: the signal may have come in the middle of one.
        line = b"finishing the step and saving; once more to stop at once\n"
        with contextlib.suppress(OSError):  # nobody may be there to read it
            os.write(2, b"\n" + line if os.isatty(2) else line)

    def _act(self, number: int, frame: FrameType | None) -> None:
        before = self._before.get(number)  # None: another process's signal, which is ignored in this one
        if callable(before):
            before(number, frame)
        else:
            raise SystemExit(128 + number)

    def _restore(self) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
