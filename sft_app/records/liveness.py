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


def has_died(run_dir: Path) -> bool:
    """Tell whether the process that was running this job has ended without concluding it.

    A job that nobody stamps, such as one started below torchrun by hand, is not known to have died.
    """
    try:
        return time.time() - (run_dir / STAMP).stat().st_mtime > SECONDS_UNTIL_DEAD
    except OSError:
        return False
