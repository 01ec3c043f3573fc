"""A job's folder belongs to one process at a time, which the system knows however that one ends."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sft_app.launch.job.run_job import JobFailed

LOCK = ".lock"


@contextmanager
def only_one(run_dir: Path) -> Iterator[None]:
    """Hold the folder's lock; JobFailed when another process is running this very job."""
    with (run_dir / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JobFailed(
                f"{run_dir} is being worked on by another process: the same sweep was started "
                "twice. Wait for the other one, or end it."
            ) from None
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
