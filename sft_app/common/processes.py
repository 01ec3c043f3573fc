"""Facts about this process and its machine that do not need torch."""

import ctypes
import importlib.util
import os
import signal
from functools import cache

PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask Linux to end this process when its parent dies, SIGKILL included (prctl(2)).

    Elsewhere this does nothing: a parent killed with SIGKILL then leaves its workers behind.
    """
    try:
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    except (OSError, AttributeError):
        return


def available_cores() -> int:
    """Count the cores that this process may use, where the system can say; not the whole node."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def is_installed(module: str) -> bool:
    """Tell whether `module` (dots allowed) can be imported, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package that would hold it is missing
        return False
