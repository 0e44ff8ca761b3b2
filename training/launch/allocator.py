"""A memory allocator that keeps what it has: on Linux it decides half of a CPU's training speed.

XLA asks for fresh memory for every large result, and glibc gives it back to the system each time, so that
most of a step is page faults. The settings below make glibc keep its memory and use huge pages. They are
read when a process starts; hence a script starts itself again, once, with them. Nothing here imports JAX.
"""

import os
import sys
from collections.abc import Mapping

TUNABLES = (
    "glibc.malloc.hugetlb=1"  # huge pages by madvise
    ":glibc.malloc.mmap_max=0"  # large blocks come from the heap, not each from the system
    ":glibc.malloc.trim_threshold=8589934592"  # and go back to the system only beyond 8 GiB
    ":glibc.malloc.top_pad=268435456"  # the heap grows by 256 MiB at a time
)
FLAG = "--no-tuned-allocator"
_ONCE = "ZOO_ALLOCATOR_RESTARTED"


def restart_with_tuned_allocator() -> None:
    """Start this very command line again with tuned `GLIBC_TUNABLES`, or return if that is not called for.

    To be called first thing in a script, under `if __name__ == "__main__":` and before JAX is imported. It
    returns at once on other systems than Linux with glibc, when `GLIBC_TUNABLES` is set already, after a
    restart, in an interactive session, and with `--no-tuned-allocator` on the command line. The process
    keeps its id, its files and its folder.
    """
    if not _is_called_for(os.environ, sys.argv) or _reads_commands():
        return
    sys.stdout.flush()
    sys.stderr.flush()
    environment = {**os.environ, "GLIBC_TUNABLES": TUNABLES, _ONCE: "1"}
    try:
        # orig_argv, unlike argv, still has `-m`, `-X` and `-W`; its own name of Python may be a relative one.
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
    except OSError:
        return  # slower, but it works


def _is_called_for(environment: Mapping[str, str], argv: list[str]) -> bool:
    if not sys.platform.startswith("linux") or FLAG in argv:
        return False
    return "GLIBC_TUNABLES" not in environment and _ONCE not in environment and _has_glibc()


def _has_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (OSError, ValueError):  # another C library does not know the name
        return False


def _reads_commands() -> bool:
    """Whether the program comes from a prompt, a pipe or a notebook: starting again would lose it."""
    notebook = "ipykernel" in sys.modules or hasattr(sys, "ps1") or bool(sys.flags.interactive)
    return notebook or not sys.executable or sys.argv[:1] in ([], [""], ["-"])
