"""When a sweep's process is done with its jobs, or is told to end: nothing is left running here."""

import contextlib
import time
from datetime import datetime

from sft_app.launch.job.job_errors import JobFailed
from sft_app.launch.job.job_lock import SECONDS_BETWEEN_TRIES, is_being_run, only_one
from sft_app.launch.sweep.compose_jobs import SweepJob
from sft_app.launch.sweep.launcher import Launcher
from sft_app.launch.sweep.prepare_sweep import Sweep
from sft_app.launch.sweep.ray_pool import stop_pool
from sft_app.launch.sweep.slurm import how_to_cancel
from sft_app.records.result import RunError, Status, read_result

SECONDS_FOR_WORKERS_TO_END = 10.0
"""Ray tells them to, and does not wait."""


def leave(sweep: Sweep, *, interrupted: bool) -> None:
    """End the jobs on a Ray pool, and say how to end those on Slurm, which go on."""
    if sweep.warm is not None:
        sweep.warm.close()
    if sweep.launcher is Launcher.ray:
        stop_pool()
    if sweep.launcher is Launcher.slurm and interrupted:
        command = how_to_cancel(sweep.directory)
        if command is not None:
            print(f"The jobs on Slurm go on; to end them: {command}", flush=True)
    elif interrupted:
        _mark_interrupted(sweep)
    if sweep.watch is not None:
        sweep.watch.stop()


def _mark_interrupted(sweep: Sweep) -> None:
    """Say of what was killed with its worker what it could not say itself.

    What the same sweep, started twice, runs in another process goes on, and is left alone.
    """
    patience = SECONDS_FOR_WORKERS_TO_END if sweep.launcher is Launcher.ray else 0.0
    deadline = time.monotonic() + patience
    for job in sweep.jobs:
        while _runs(job) and is_being_run(job.run_dir) and time.monotonic() < deadline:
            time.sleep(SECONDS_BETWEEN_TRIES)
        with contextlib.suppress(JobFailed, OSError), only_one(job.run_dir):
            if _runs(job):
                _say_interrupted(job)


def _runs(job: SweepJob) -> bool:
    try:
        return read_result(job.run_dir).status is Status.running
    except ValueError:
        return False


def _say_interrupted(job: SweepJob) -> None:
    result = read_result(job.run_dir)
    result.status = Status.interrupted
    result.error = RunError(type="Interrupted", message="ended with its sweep")
    result.finished_at = datetime.now().astimezone().isoformat(timespec="seconds")
    result.write(job.run_dir)
