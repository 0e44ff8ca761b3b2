"""A lock on a folder, so that two processes never write the same run."""

import contextlib
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from zoo.atomic_write import atomic_write

LOCK = "run.lock"


class RunLock:
    """Holds a folder for this process, by a file that says who, where and since when.

    A lock whose process is dead (killed, or its machine restarted) is taken over if it was of this host, and
    so is one of this very process. Nobody can tell whether a process of another host is alive, so its lock is
    respected.

    Args:
        folder: an existing folder.

    Raises:
        BlockingIOError: another process holds the folder; the message says who.
    """

    def __init__(self, folder: Path):
        self.path = folder / LOCK
        self._pid = os.getpid()
        self._text = json.dumps({
            "pid": self._pid,
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
            "started": _started(self._pid),
            "token": secrets.token_hex(8),  # tells two locks of one process apart
        })  # fmt: skip
        with _alone(folder):
            holder = _holder(self.path)
            if holder is not None and _may_be_alive(holder):
                raise BlockingIOError(
                    f"{folder} is in use by pid {holder['pid']} on {holder['host']} since {holder['since']}"
                    + ("" if holder["host"] == socket.gethostname() else f"; if that is dead, delete {self.path}")
                )
            atomic_write(self.path, self._text.encode())

    def release(self) -> None:
        """Remove the lock, if it is still this one; a second call does nothing."""
        with contextlib.suppress(OSError):  # the folder is gone, or can't be written: nothing is left to do
            # A forked child has a copy of this object, but not the folder.
            if os.getpid() == self._pid and self.path.read_text() == self._text:
                self.path.unlink()


def _holder(path: Path) -> dict[str, Any] | None:
    """Who holds a lock; None for nobody, and for a file that no one can read anything from."""
    try:
        content = json.loads(path.read_bytes()[:4096])
        return {name: content[name] for name in ("pid", "host", "since", "started")}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _may_be_alive(holder: dict[str, Any]) -> bool:
    if holder["host"] != socket.gethostname():
        return True
    pid = holder["pid"]
    if not isinstance(pid, int) or pid <= 0 or pid == os.getpid():
        return False
    # Not by a signal 0, which ends a process on Windows.
    return psutil.pid_exists(pid) and holder["started"] == _started(pid)  # else the id has gone to another process


def _started(pid: int) -> str | None:
    """When a process started, as its system tells it; None where it does not."""
    try:  # Linux says it to the tick, and a change of the clock moves nothing
        status = Path(f"/proc/{pid}/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {status.rpartition(')')[2].split()[19]}"
    except OSError:
        with contextlib.suppress(psutil.Error):
            return f"{psutil.Process(pid).create_time():.2f}"
        return None


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Of several that find a dead lock at once, one takes it over: where the system can, they wait here."""
    try:
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        yield
        return
    try:
        with contextlib.suppress(OSError):  # some network file systems can't
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
