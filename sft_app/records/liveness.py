"""Whether the process that runs a job is still there: a stamp that it renews while it lives."""

import contextlib
import time
from pathlib import Path

STAMP = ".alive"
SECONDS_BETWEEN_STAMPS = 10
SECONDS_UNTIL_DEAD = 120
"""Without a new stamp; file systems that nodes share show one late."""


def stamp(run_dir: Path) -> None:
    """Say that the job in `run_dir` is being run; a disk that is full does not matter."""
    with contextlib.suppress(OSError):
        (run_dir / STAMP).touch()


def remove_stamp(run_dir: Path) -> None:
    """Say that nobody runs the job any more."""
    with contextlib.suppress(OSError):
        (run_dir / STAMP).unlink(missing_ok=True)


def last_stamp(run_dir: Path) -> float | None:
    """Return when the job was last known to be run, in seconds since the epoch; None: never."""
    try:
        return (run_dir / STAMP).stat().st_mtime
    except OSError:
        return None


def has_died(run_dir: Path) -> bool:
    """Tell whether the process that was running this job has ended without concluding it.

    A job that nobody stamps, such as one started below torchrun by hand, is not known to have died.
    """
    last = last_stamp(run_dir)
    return last is not None and time.time() - last > SECONDS_UNTIL_DEAD
