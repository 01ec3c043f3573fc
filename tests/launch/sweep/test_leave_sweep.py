"""The end of a sweep's process: what it says of the jobs that it leaves."""

from collections.abc import Callable
from pathlib import Path

from sft_app.config.schema.app import AppConfig
from sft_app.launch.job.job_lock import only_one
from sft_app.launch.job.run_job import initial_result
from sft_app.launch.sweep.compose_jobs import SweepJob
from sft_app.launch.sweep.launcher import Launcher
from sft_app.launch.sweep.leave_sweep import leave
from sft_app.launch.sweep.prepare_sweep import Sweep
from sft_app.records.result import Status, read_result

Compose = Callable[..., AppConfig]


def test_an_interrupted_sweep_speaks_for_its_own_jobs_only(
    compose: Compose, tmp_path: Path
) -> None:
    """Started twice, and the one that waits for a job of the other is interrupted."""
    config = compose("context_length=512")
    jobs = tuple(
        SweepJob(overrides=(), config=config, run_dir=tmp_path / name)
        for name in ("killed", "of another", "never begun", "done")
    )
    for job, status in zip(
        jobs, (Status.running, Status.running, Status.pending, Status.completed), strict=True
    ):
        job.run_dir.mkdir()
        initial_result(config, status).write(job.run_dir)
    sweep = Sweep(directory=tmp_path, jobs=jobs, launcher=Launcher.serial)
    with only_one(tmp_path / "of another"):
        leave(sweep, interrupted=True)
    assert [read_result(job.run_dir).status for job in jobs] == [
        Status.interrupted, Status.running, Status.pending, Status.completed,
    ]  # fmt: skip
