"""Jobs that would do the same: where a length fits the model, every RoPE method leaves it alone.

Such jobs run once. The others' result.json says `shared` and names the one that runs.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from sft_app.config.config_hash import config_hash
from sft_app.config.schema.app import AppConfig
from sft_app.launch.job.job_state import JobState, job_state
from sft_app.launch.sweep.compose_jobs import SweepJob
from sft_app.records.result import RunResult, Status, read_result


def jobs_that_share(jobs: Sequence[SweepJob], plans: Mapping[str, str]) -> dict[str, str]:
    """Return name -> name of the job that runs for it.

    `plans` has, by name, what the RoPE plan of each job that is to be run does to the model. Two
    jobs are one where that and every other setting are equal. A job with work of its own keeps it.
    """
    runs: dict[tuple[str, str], str] = {}
    shared = {}
    for job in jobs:
        plan = plans.get(job.name)
        if plan is None:
            continue
        first = runs.setdefault((plan, _other_settings(job.config)), job.name)
        if first != job.name and job_state(job.run_dir, job.config) is JobState.new:
            shared[job.name] = first
    return shared


def shared_result(run_dir: Path, config: AppConfig) -> RunResult | None:
    """Return the record of a job that another one runs for; None when it is to be run itself."""
    try:
        result = read_result(run_dir)
    except ValueError:
        return None
    is_shared = result.status is Status.shared and result.config_hash == config_hash(config)
    return result if is_shared else None


def _other_settings(config: AppConfig) -> str:
    settings = dataclasses.asdict(config)
    del settings["rope"]
    return repr(settings)
