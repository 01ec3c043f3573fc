"""What a job of a sweep is called, and how long the others take."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sft_app.launch.sweep.job_label import job_label, time_left
from sft_app.records.result import Status
from tests.reporting.example_runs import result_of


def jobs_in(folder: Path) -> list[Any]:
    grid = [(n, rope) for n in (64, 128) for rope in ("linear", "yarn")]
    return [
        SimpleNamespace(
            run_dir=folder / f"{length}-{rope}",
            overrides=(f"context_length={length}", f"rope={rope}", "trainer.max_steps=9"),
        )
        for length, rope in grid
    ]


def test_the_label_says_which_of_how_many_and_what_differs(tmp_path: Path) -> None:
    jobs = jobs_in(tmp_path)
    assert job_label(jobs, jobs[1].run_dir) == "[2/4] context=64 rope=yarn"


def test_the_time_left_follows_from_the_jobs_that_completed(tmp_path: Path) -> None:
    jobs = jobs_in(tmp_path)
    assert time_left(jobs) == ""
    for job, status, seconds in zip(
        jobs, (Status.completed, Status.failed, Status.pending, Status.running), (60, 5, 0, 0),
        strict=True,
    ):  # fmt: skip
        job.run_dir.mkdir()
        result_of(status=status, seconds={"total": float(seconds)}).write(job.run_dir)
    assert time_left(jobs) == "2 jobs left, about 0:02:00"
