"""A memory allocator that keeps what it has: on Linux it decides a third of a CPU's training speed.

XLA's CPU backend asks for fresh memory for every large result, and glibc gives it back to the system each time, so
that much of a step is page faults. Nothing here imports JAX.
"""

import importlib.util
import os
import sys

# Of glibc's malloc.h. Large blocks come from the heap instead of each from the system, the heap is never trimmed, and
# it grows by 256 MiB at a time. There is one heap for all threads, since XLA computes in threads, and none of their
# own heaps holds a block beyond 64 MiB.
_M_MMAP_MAX, _M_TRIM_THRESHOLD, _M_TOP_PAD, _M_ARENA_MAX = -4, -1, -2, -8
_SETTINGS = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, 256 << 20), (_M_ARENA_MAX, 1))


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, for the next step to use. Importing `fit` calls it.

    For a training loop of one's own: to be called before JAX computes anything, since threads that are there already
    continue as before with their blocks beyond 64 MiB. Again makes no difference. The price is that memory which was
    needed once stays with the process.

    Nothing happens on other systems than Linux with glibc, where somebody chose otherwise (`GLIBC_TUNABLES` or any
    `MALLOC_...` is in the environment), with `ZOO_ALLOCATOR=0` in the environment, and where JAX computes on an
    accelerator (its plugin is installed, or `JAX_PLATFORMS` says so): there the many threads of the host would wait
    for one another, which made training on a GPU several times slower.

    Returns:
        Whether the allocator is set so.
    """
    chosen = any(name == "GLIBC_TUNABLES" or name.startswith("MALLOC_") for name in os.environ)
    if chosen or os.environ.get("ZOO_ALLOCATOR") == "0" or not _has_glibc() or not _computes_on_cpu():
        return False
    try:
        import ctypes  # not in every build of Python

        mallopt = ctypes.CDLL(None).mallopt
    except (ImportError, OSError, AttributeError):
        return False
    return all(mallopt(*setting) for setting in _SETTINGS)


def _computes_on_cpu() -> bool:
    """Whether JAX will, asked without JAX, which would then have chosen its devices."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms:
        return platforms.split(",")[0].strip().lower() == "cpu"
    return importlib.util.find_spec("jax_plugins") is None and importlib.util.find_spec("libtpu") is None


def _has_glibc() -> bool:
    if not sys.platform.startswith("linux"):
        return False
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (OSError, ValueError):  # another C library does not know the name
        return False
