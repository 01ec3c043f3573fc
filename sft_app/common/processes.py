"""Facts about this process and its machine that do not need torch."""

import contextlib
import ctypes
import importlib.util
import os
import signal
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask Linux to end this process when its parent dies, SIGKILL included (prctl(2)).

    Elsewhere this does nothing: a parent killed with SIGKILL then leaves its workers behind.
    """
    try:
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    except (OSError, AttributeError):
        return


@dataclass(frozen=True)
class RunningProcess:
    """A process that was seen running; another one that gets its number later is not equal."""

    pid: int
    started: str
    """Clock ticks after the machine's start, as Linux counts."""

    def kill(self) -> None:
        """Send SIGKILL, where it is this process that has the number still."""
        if _started(self.pid) == self.started:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self.pid, signal.SIGKILL)


def processes_below(pid: int) -> set[RunningProcess]:
    """Return the children of a process and theirs, in whatever session; Linux only, else none."""
    found: set[RunningProcess] = set()
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (thread / "children").read_text().split()):
                if (started := _started(child)) is not None:
                    found |= {RunningProcess(child, started), *processes_below(child)}
    return found


def _started(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


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
