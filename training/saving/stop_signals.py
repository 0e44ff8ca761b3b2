"""SIGTERM and Ctrl-C that wait until a step is done and saved."""

import contextlib
import os
import signal
import threading
from types import FrameType
from typing import Any


class StopSignals:
    """Within it the first SIGTERM or SIGINT is remembered; a second one does at once what it would have done outside.

    Handlers belong to the main thread: in another one, or when not `active`, nothing changes. A signal that is
    ignored, as under `nohup`, stays ignored.
    """

    def __init__(self, *, active: bool):
        self.received: int | None = None
        self._active = active and threading.current_thread() is threading.main_thread()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if self._active:
            for number in (signal.SIGTERM, signal.SIGINT):
                before = signal.getsignal(number)
                if before not in (signal.SIG_IGN, None):  # None: not Python's to give back
                    self._before[number] = before
                    signal.signal(number, self._remember)
        return self

    def __exit__(self, *exception: Any) -> None:
        self._restore()

    def deliver(self) -> None:
        """Do what the remembered signal would have done: call its handler, or leave with its exit code."""
        if self.received is not None:
            self._restore()
            self._act(self.received, None)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            self._act(number, frame)
        self.received = number
        # Not print: the signal may have come in the middle of one.
        line = b"finishing the step and saving; once more to stop at once\n"
        with contextlib.suppress(OSError):  # nobody may be there to read it
            os.write(2, b"\n" + line if os.isatty(2) else line)

    def _act(self, number: int, frame: FrameType | None) -> None:
        before = self._before[number]
        if callable(before):
            before(number, frame)
        else:
            raise SystemExit(128 + number)

    def _restore(self) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
