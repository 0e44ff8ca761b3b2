"""TCP heartbeat between process 0 and the others, by which a process learns at once that one is gone.

XLA's own answer to that is a hang of many seconds and then an abort with a stack trace, out of reach of Python. Here
both ends of a connection send a beat every second; an end that closes without a goodbye, or is silent for long, is
lost.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable

_BEAT, _GOODBYE = b".", b"!"
_EVERY = 1.0
_GRACE = 1.0  # for this process's own error to come out, when all fail alike


class Heartbeat:
    """Watches connections to other processes.

    Args:
        lost: called in a thread, once, with the number of the process that is gone.
        silence: seconds after which a silent process counts as gone.
    """

    def __init__(self, lost: Callable[[int], None], *, silence: float = 20.0):
        self._lost = lost
        self._silence = silence
        self._lines: dict[int, socket.socket] = {}
        self._over = threading.Event()

    def add(self, process: int, line: socket.socket) -> None:
        """Watch a connection to a process, from now on."""
        self._lines[process] = line
        line.settimeout(self._silence)
        for work in (self._listen, self._beat):
            threading.Thread(target=work, args=(process, line), name=f"heartbeat {process}", daemon=True).start()

    def goodbye(self) -> None:
        """This process ends as it should: nobody is to worry."""
        self._over.set()
        for line in self._lines.values():
            with contextlib.suppress(OSError):  # it left first
                line.sendall(_GOODBYE)
                line.close()

    def _listen(self, process: int, line: socket.socket) -> None:
        while not self._over.is_set():
            try:
                said = line.recv(64)
            except OSError:  # closed the hard way, or silent for too long
                said = b""
            if _GOODBYE in said:
                return
            if not said:
                break
        time.sleep(_GRACE if process else 0.0)  # without the first one, XLA aborts within a tenth of a second
        if not self._over.is_set():
            self._over.set()
            self._lost(process)

    def _beat(self, process: int, line: socket.socket) -> None:
        while not self._over.wait(_EVERY):
            try:
                line.sendall(_BEAT)
            except OSError:  # the listener will notice
                return


def open_lines(processes: int, announce: Callable[[int], int], timeout: float, heartbeat: Heartbeat) -> None:
    """In the first process: wait for a line from each other one.

    Args:
        processes: how many there are.
        announce: tells all the number of a port.
        timeout: seconds for each to call.
        heartbeat: gets the lines.

    Raises:
        TimeoutError: a process did not call.
    """
    with socket.create_server(("", 0), backlog=processes) as server:
        server.settimeout(timeout)
        announce(server.getsockname()[1])
        for _ in range(processes - 1):
            line, _ = server.accept()
            line.settimeout(timeout)
            heartbeat.add(int.from_bytes(_exactly(line, 4)), line)


def call_first(host: str, process: int, announce: Callable[[int], int], timeout: float, heartbeat: Heartbeat) -> None:
    """In any other process: the line to the first one.

    Raises:
        OSError: it can't be reached.
    """
    line = socket.create_connection((host, announce(0)), timeout=timeout)
    line.sendall(process.to_bytes(4))
    heartbeat.add(0, line)


def _exactly(line: socket.socket, count: int) -> bytes:
    said = b""
    while len(said) < count:
        part = line.recv(count - len(said))
        if not part:
            raise ConnectionError("a process hung up")
        said += part
    return said
