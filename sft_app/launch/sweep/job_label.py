"""What a job of a sweep is called on the screen, and how long the sweep may still take."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from sft_app.launch.sweep.compose_jobs import SweepJob
from sft_app.records.result import RunResult, Status, read_result

NOT_ENDED = (Status.pending, Status.running)


def job_label(jobs: Sequence[SweepJob], run_dir: Path) -> str:
    """Return `[2/4] context=64 rope=yarn`: the job's number, and its settings that differ."""
    number = next(i for i, job in enumerate(jobs, start=1) if job.run_dir == run_dir)
    values: dict[str, set[str]] = {}
    for job in jobs:
        for override in job.overrides:
            key, _, value = override.partition("=")
            values.setdefault(key, set()).add(value)
    own = [override.partition("=") for override in jobs[number - 1].overrides]
    shown = [f"{_short(key)}={value}" for key, _, value in own if len(values[key]) > 1]
    return " ".join([f"[{number}/{len(jobs)}]", *shown])


def time_left(jobs: Sequence[SweepJob]) -> str:
    """Return `2 jobs left, about 0:01:10`, by the mean of those that completed; or nothing."""
    results = [result for job in jobs if (result := _result(job)) is not None]
    left = len(jobs) - sum(result.status not in NOT_ENDED for result in results)
    took = [r.seconds["total"] for r in results if r.status is Status.completed]
    if not left or not took:
        return ""
    seconds = timedelta(seconds=round(left * sum(took) / len(took)))
    return f"{left} job{'s' if left > 1 else ''} left, about {seconds}"


def _result(job: SweepJob) -> RunResult | None:
    try:
        return read_result(job.run_dir)
    except ValueError:
        return None


def _short(key: str) -> str:
    return "context" if key == "context_length" else key.rpartition(".")[2]
