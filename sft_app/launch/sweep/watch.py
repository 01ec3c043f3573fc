"""Tells what the jobs of a sweep do while others run them: each one's start, end and true error."""

import threading
from collections.abc import Callable, Sequence

from sft_app.launch.job.messages import sweep_job_closing
from sft_app.launch.sweep.compose_jobs import SweepJob
from sft_app.records.result import RunResult, Status, read_result

POLL_SECONDS = 1.0


class Watch:
    """Reads the jobs' result.json from a thread of its own, and prints what has changed."""

    def __init__(self, jobs: Sequence[SweepJob], refresh: Callable[[], None] | None = None) -> None:
        """Watch these jobs from `start` on; `refresh` is called about once a second."""
        self._refresh = refresh
        self.jobs = {job.name: job for job in jobs}
        self.told: dict[str, Status | None] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Take what stands there now as known, and begin."""
        self.told = {name: _status(job) for name, job in self.jobs.items()}
        self._thread.start()

    def stop(self) -> None:
        """Tell what is still to be told, and end."""
        self._ended.set()
        self._thread.join()
        self.look()

    def look(self) -> None:
        """Print a line for each job whose status has changed."""
        for name, job in self.jobs.items():
            status = _status(job)
            if status is self.told[name] or status is None:
                continue
            self.told[name] = status
            done = sum(s not in (Status.pending, Status.running) for s in self.told.values())
            line = _describe(read_result(job.run_dir), job)
            print(f"[{done}/{len(self.jobs)} ended] {line}", flush=True)

    def _run(self) -> None:
        while not self._ended.wait(POLL_SECONDS):
            self.look()
            if self._refresh is not None:
                self._refresh()


def _status(job: SweepJob) -> Status | None:
    try:
        return read_result(job.run_dir).status
    except ValueError:
        return None  # being moved or written: the next look sees it


def _describe(result: RunResult, job: SweepJob) -> str:
    if result.error is not None:
        rank = f" (rank {result.error.rank})" if result.error.rank is not None else ""
        return (
            f"{job.name}: {result.status}: {result.error.type}{rank}: {result.error.message}\n"
            f"  The log stands in {job.run_dir}"
        )
    return sweep_job_closing(result, job.name)
