"""One job of a sweep, where it runs: in this process, on a Ray worker, or on a Slurm node."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from sft_app.config.schema.app import AppConfig
from sft_app.launch.job.job_errors import JobFailed, JobInterrupted
from sft_app.launch.job.job_lock import only_one
from sft_app.launch.job.job_state import JobState, job_state
from sft_app.launch.job.run_job import initial_result, run_job, worker_command
from sft_app.launch.job.supervise import run_supervised
from sft_app.launch.job.worker_processes import worker_environment
from sft_app.launch.nodes.following import Following
from sft_app.launch.nodes.slurm_rendezvous import run_id_on_slurm, slurm_rendezvous
from sft_app.launch.sweep.budget import apply_budget
from sft_app.launch.sweep.equal_plans import shared_result
from sft_app.launch.sweep.named_checkpoint import own_checkpoints_first
from sft_app.launch.sweep.out_of_memory import shorter_out_of_memory
from sft_app.launch.sweep.rungs.continue_budget import Beginning, find_beginning, go_on_from
from sft_app.launch.sweep.rungs.halving import drop, why_dropped
from sft_app.launch.sweep.slurm_node import (
    publish_decision,
    wait_for_decision,
)
from sft_app.launch.warm.warm_python import WarmPython
from sft_app.records.place import Judge
from sft_app.records.result import RunError, RunResult, Status, read_result
from sft_app.records.run_files import CONFIG


def run_sweep_job(
    config: AppConfig,
    run_dir: Path,
    overrides: Sequence[str],
    label: str | None = None,
    *,
    warm: WarmPython | None = None,
    refresh: Callable[[], None] | None = None,
    judge: Judge | None = None,
) -> RunResult | None:
    """Run what is left to do of this job, and return its result, which may be that of a failure.

    `overrides` are the job's own, as Hydra lists them; `label` is what it is called on the screen
    (None: as its folder); `warm`, where this process runs all jobs, is what their workers are
    forked from; `refresh` is called about once a second while the job runs; `judge` tells, of a
    rung of successive halving, which settings go on. None: this node only helped node 0. Raises
    JobInterrupted.
    """
    config = apply_budget(config)
    config = dataclasses.replace(config, launch=slurm_rendezvous(config.launch))
    if config.launch.node_rank:
        help_node_0(config, run_dir)
        return None
    with only_one(run_dir, wait=True):  # of the same sweep, started twice: what it did is found
        finished = settle_without_running(config, run_dir, overrides)
        beginning = None
        if finished is None and config.sweep.continue_budgets:
            beginning = find_beginning(run_dir, config)
            finished = _dropped(config, run_dir, beginning, judge)
        if config.launch.nnodes > 1:
            publish_decision(run_dir, runs=finished is None)
        if finished is not None:
            return finished
        run_id = run_id_on_slurm() if config.launch.nnodes > 1 else None
        try:
            return run_job(
                go_on_from(beginning, run_dir, own_checkpoints_first(config, run_dir)),
                run_dir,
                label or run_dir.name,
                run_id=run_id,
                warm=warm,
                refresh=refresh,
                before=beginning.before if beginning else None,
            )
        except JobFailed:
            return read_result(run_dir)  # told already; the sweep goes on


def settle_without_running(
    config: AppConfig, run_dir: Path, overrides: Sequence[str]
) -> RunResult | None:
    """Return the job's result when it is done already, or spared; None when it is to be run."""
    if job_state(run_dir, config) is JobState.done:
        return read_result(run_dir)
    if (shared := shared_result(run_dir, config)) is not None:
        return shared
    shorter = shorter_out_of_memory(run_dir, config, overrides)
    return skip(config, run_dir, shorter) if shorter is not None else None


def _dropped(
    config: AppConfig, run_dir: Path, beginning: Beginning | None, judge: Judge | None
) -> RunResult | None:
    """Return the record of a job that successive halving leaves out; None when it is to be run."""
    if judge is None:
        return None
    why = why_dropped(run_dir, config, beginning, judge)
    return drop(config, run_dir, why) if why is not None else None


def help_node_0(config: AppConfig, run_dir: Path) -> None:
    """Lend this node's processes; what they meet, failures included, node 0 records."""
    launch = config.launch
    if not wait_for_decision(run_dir, launch.rdzv_timeout_seconds):
        return
    ended = run_supervised(
        worker_command(launch, run_dir / CONFIG, run_id=run_id_on_slurm()),
        worker_environment(launch),
        grace_seconds=launch.shutdown_grace_seconds,
        look=Following(run_dir).look,
    )
    if ended.interrupted_by is not None:
        raise JobInterrupted(ended.interrupted_by)


def skip(config: AppConfig, run_dir: Path, shorter: RunResult) -> RunResult:
    """Write that the job was not begun, because `shorter` ran out of memory already."""
    result = initial_result(config, Status.skipped)
    result.error = RunError(
        type="Skipped",
        message=f"the same settings ran out of memory at context_length={shorter.context_length}; "
        "sweep.skip_longer_after_oom=false tries anyway",
    )
    result.write(run_dir)
    print(f"{run_dir.name} skipped: {result.error.message}", flush=True)
    return result
