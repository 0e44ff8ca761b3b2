"""How much memory this process has taken."""

import re
import sys
from pathlib import Path


def peak_memory() -> int | None:
    """The most bytes of memory that this process has held so far; None where the system does not say.

    On Linux that is `VmHWM`: `ru_maxrss` would count in what the parent held when this process was started.
    """
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return 1024 * int(found[1])
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
