"""When a sweep's process is done with its jobs, or is told to end: nothing is left running here."""

from datetime import datetime

from sft_app.launch.sweep.launcher import Launcher
from sft_app.launch.sweep.prepare_sweep import Sweep
from sft_app.launch.sweep.ray_pool import stop_pool
from sft_app.launch.sweep.slurm import how_to_cancel
from sft_app.records.result import RunError, Status, read_result


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
    """Say of what was killed with its worker what it could not say itself."""
    for job in sweep.jobs:
        try:
            result = read_result(job.run_dir)
        except ValueError:
            continue
        if result.status is Status.running:
            result.status = Status.interrupted
            result.error = RunError(type="Interrupted", message="ended with its sweep")
            result.finished_at = datetime.now().astimezone().isoformat(timespec="seconds")
            result.write(job.run_dir)
