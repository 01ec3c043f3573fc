"""Successive halving, on top of the sweep as it is: which job of a rung is run at all.

Jamieson and Talwalkar 2016 (arXiv:1502.07943, figure 1), with the rungs and the rate of Hyperband's
brackets (Li et al. 2018, arXiv:1603.06560, section 3). The rungs are an axis of the sweep, and one
batch of Hydra's sweeper each, so that a rung is done before the next one starts, here, on Ray and
on Slurm. Each job asks when its turn comes whether its setting was kept: a function of the files of
the rung below, and so the same after a restart.
"""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from sft_app.common.errors import ConfigError
from sft_app.config.config_hash import config_hash
from sft_app.config.schema.app import AppConfig
from sft_app.config.schema.sweep import Budget
from sft_app.launch.job.job_state import JobState, job_state
from sft_app.launch.job.run_job import initial_result
from sft_app.launch.sweep.compose_jobs import SweepJob
from sft_app.launch.sweep.rungs.continue_budget import Beginning
from sft_app.records.place import Judge
from sft_app.records.result import RunError, RunResult, Status, read_result

PARAMETERS = "hydra.sweeper.params"


def add_rungs(master: DictConfig) -> None:
    """Make the rungs the slowest axis of the sweep; ConfigError for what they do not go with."""
    sweep = master.sweep
    if int(sweep.rungs) < 2:
        return
    if Budget(sweep.budget) is not Budget.tokens:
        raise ConfigError(
            f"sweep.rungs={sweep.rungs} counts tokens: set sweep.budget=tokens and sweep.tokens=..."
        )
    if master.hydra.sweeper.max_batch_size is not None:
        raise ConfigError(
            "hydra.sweeper.max_batch_size is one rung's jobs with sweep.rungs: leave it out."
        )
    rungs = ",".join(str(rung) for rung in range(sweep.rungs))
    params = OmegaConf.select(master, PARAMETERS) or {}
    with read_write(master), open_dict(master):
        master.hydra.sweeper.params = {"sweep.rung": rungs, **params}


def one_batch_a_rung(master: DictConfig, jobs: Sequence[SweepJob]) -> None:
    """Let Hydra start a rung when the one before has ended, whatever launches its jobs."""
    if int(master.sweep.rungs) < 2:
        return
    with read_write(master):
        master.hydra.sweeper.max_batch_size = len(jobs) // int(master.sweep.rungs)


def why_dropped(
    run_dir: Path, config: AppConfig, beginning: Beginning | None, judge: Judge
) -> str | None:
    """Say why successive halving does not run this job; None: it is run."""
    if not config.sweep.rung:
        return None
    below = config.sweep.rung - 1
    places = judge(run_dir.parent, below)
    place = places.get(beginning.run_dir.name) if beginning is not None else None
    if place is None:
        return f"its setting has no result on rung {below}"
    if place.goes_on:
        return None
    return (
        f"place {place.rank} of {place.entered} on rung {below} ({place.measured}), of which "
        f"{place.kept} went on"
    )


def drop(config: AppConfig, run_dir: Path, why: str) -> RunResult:
    """Write that the job is not run, and why."""
    result = initial_result(config, Status.dropped)
    result.error = RunError(type="Dropped", message=why)
    result.write(run_dir)
    return result


def is_dropped(run_dir: Path, config: AppConfig) -> bool:
    """Tell whether the job was dropped with these settings."""
    try:
        result = read_result(run_dir)
    except ValueError:
        return False
    return result.status is Status.dropped and result.config_hash == config_hash(config)


def jobs_left(jobs: Sequence[SweepJob]) -> list[SweepJob]:
    """Return the jobs with anything left to do, lowest rung first.

    What was dropped stays so as long as no rung below has anything left to do.
    """
    left: list[SweepJob] = []
    lowest = float("inf")
    for job in sorted(jobs, key=lambda job: job.config.sweep.rung or 0):
        rung = job.config.sweep.rung or 0
        stays_dropped = lowest >= rung and is_dropped(job.run_dir, job.config)
        if not stays_dropped and job_state(job.run_dir, job.config) is not JobState.done:
            left.append(job)
            lowest = min(lowest, rung)
    return left
