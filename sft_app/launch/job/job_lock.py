"""A job's folder belongs to one process at a time, which the system knows however that one ends."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sft_app.launch.job.job_errors import JobFailed

LOCK = ".lock"
SECONDS_BETWEEN_TRIES = 1.0


@contextmanager
def only_one(run_dir: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the folder's lock while the job runs.

    Where another process holds it: wait until that one has ended, or raise JobFailed.
    """
    with (run_dir / LOCK).open("a") as file:
        told = False
        while not _take(file.fileno()):
            if not wait:
                raise JobFailed(
                    f"{run_dir} is being worked on by another process: the same command was "
                    "started twice. Wait for the other one, or end it."
                )
            if not told:
                print(f"{run_dir.name} is being run by another process: waiting.", flush=True)
                told = True
            time.sleep(SECONDS_BETWEEN_TRIES)
        yield


def is_being_run(run_dir: Path) -> bool:
    """Tell whether another process holds the folder's lock."""
    if not (run_dir / LOCK).exists():
        return False
    try:
        with only_one(run_dir):
            return False
    except JobFailed:
        return True


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
