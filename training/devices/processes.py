"""Several processes that train one model together: how they connect, agree, and end when one of them is gone.

Every process runs the same program (SPMD). Process 0 alone prints and writes; the others do the same work in silence,
so that nothing in a program has to ask which it is.
"""

import atexit
import contextlib
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from training.devices.heartbeat import Heartbeat, call_first, open_lines
from training.devices.sharding import Sharding
from training.errors import ProcessLostError

_MEET_SECONDS = 60
_LOST_SECONDS = 20  # a process that was silent for so long is gone
_LEAVE_SECONDS = 10

_heartbeat: Heartbeat | None = None
_silent_folders: list[Path] = []


def initialize_distributed(
    coordinator: str, processes: int, process_id: int, *, timeout: int = _MEET_SECONDS
) -> None:
    """Connect to the other processes; to be called before anything asks JAX for its devices.

    Args:
        coordinator: HOST:PORT of the first process, which has to be free there.
        processes: how many there are, at least 1.
        process_id: which one this is, from 0.
        timeout: seconds to wait for the others.

    Raises:
        ValueError: an argument is out of its range.
        ProcessLostError: the others didn't come in time, or the port is taken.
    """
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ValueError(f"coordinator must be HOST:PORT, the address of the first process; got {coordinator!r}")
    if not 0 <= process_id < processes:
        raise ValueError(f"process_id must be in 0..processes - 1, of {processes} processes; got {process_id}")
    if process_id == 0:
        _check_free(int(port))
    else:
        _wait_for(host, int(port), timeout)  # JAX itself ends the process, in many lines, where nobody answers
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM away from Python's handlers
    if process_id > 0:
        _be_silent()
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process_id,
            initialization_timeout=timeout,
            heartbeat_timeout_seconds=2 * _LOST_SECONDS,  # the heartbeat answers before
            shutdown_timeout_seconds=_LEAVE_SECONDS,
        )
        _open_heartbeat(host, processes, process_id, timeout)
    except (RuntimeError, OSError) as error:
        raise ProcessLostError(f"not all {processes} processes met at {coordinator} within {timeout} s") from error


def is_first() -> bool:
    """Whether this is process 0, which alone prints and writes."""
    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """A barrier: returns when all processes have reached it; `what` names it."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def from_first(text: str) -> str:
    """The text of process 0, broadcast to all."""
    if jax.process_count() == 1:
        return text
    content = np.frombuffer(text.encode(), np.uint8) if is_first() else np.zeros(0, np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    return multihost_utils.broadcast_one_to_all(np.resize(content, size)).tobytes().decode()


def check_alike(number: int, what: str) -> None:
    """Raises `ValueError` unless all processes have the same number."""
    if jax.process_count() > 1:
        numbers = np.ravel(multihost_utils.process_allgather(np.int32(number))).tolist()
        if len(set(numbers)) > 1:
            raise ValueError(f"{what} is not the same for all processes: {numbers}; they need a folder in common")


class AnyProcess:
    """What any process of a run wants, all do, after the same step.

    Where there are several, an answer comes one question late, so that nobody waits for the step that was just
    started.

    Args:
        sharding: over the devices of all processes.
    """

    def __init__(self, sharding: Sharding):
        self._sharding = sharding
        self._pending: jax.Array | None = None
        self._alone = sharding.shard[1] == 1
        if not self._alone:
            self._any = jax.jit(lambda wishes: wishes.any(axis=0), out_shardings=sharding.replicated())

    def __call__(self, wishes: Sequence[bool]) -> list[bool]:
        """Say what this process wants; which of the wishes (of the last call, where there are several) any had."""
        if self._alone:
            return list(wishes)
        here = self._sharding.num_devices // jax.process_count()
        rows = self._sharding.rows({"wishes": np.tile(np.array(wishes, bool), (here, 1))})
        answer, self._pending = self._pending, self._any(rows["wishes"])
        return [False] * len(wishes) if answer is None else np.asarray(answer).tolist()


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Within it an error of XLA's may mean that another process is gone: the heartbeat gets the time to say so."""
    try:
        yield
    except (RuntimeError, ValueError) as error:  # XLA has either for the same
        if _heartbeat is not None and (isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error)):
            time.sleep(_LOST_SECONDS + 5)
        raise


def silent_folder() -> Path:
    """A folder for what a process that is not the first would write; gone when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="silent-process-"))
    _silent_folders.append(folder)
    if len(_silent_folders) == 1:
        atexit.register(_clean)
    return folder


def leave(code: int) -> None:
    """After an error, end a process of several at once: a normal end would wait for the others, who wait for it."""
    if _heartbeat is not None:
        _end(code)


def _end(code: int) -> None:
    _clean()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _clean() -> None:
    for folder in _silent_folders:
        shutil.rmtree(folder, ignore_errors=True)


def _be_silent() -> None:
    sys.stdout.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def _open_heartbeat(host: str, processes: int, process_id: int, timeout: int) -> None:
    def lost(process: int) -> None:
        message = (
            f"error: process {process} of the {processes} of this run is gone; start all of them again with --resume "
            "to continue from the last checkpoint\n"
        )
        os.write(2, message.encode())
        _end(ProcessLostError.exit_code)

    def announce(port: int) -> int:
        return int(multihost_utils.broadcast_one_to_all(np.int32(port)))

    global _heartbeat
    _heartbeat = Heartbeat(lost, silence=_LOST_SECONDS)
    if process_id == 0:
        open_lines(processes, announce, timeout, _heartbeat)
    else:
        call_first(host, process_id, announce, timeout, _heartbeat)
    atexit.register(_say_goodbye)


def _say_goodbye() -> None:
    if _heartbeat is not None and not hasattr(sys, "last_type"):  # which an error that nobody caught leaves behind
        _heartbeat.goodbye()


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise ProcessLostError(f"port {port} of the coordinator can't be had: {error.strerror}") from None


def _wait_for(host: str, port: int, timeout: int) -> None:
    ends = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host, port), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > ends:
                why = error.strerror or error
                raise ProcessLostError(
                    f"the first process is not at {host}:{port} after {timeout} s: {why}"
                ) from None
            time.sleep(0.2)
