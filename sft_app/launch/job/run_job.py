"""One job, from its typed configuration to its result.json: starts workers, waits, concludes."""

import shutil
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from sft_app.config.config_hash import config_hash
from sft_app.config.schema.app import AppConfig, save_config
from sft_app.config.schema.from_environment import as_written
from sft_app.config.schema.launch import LaunchConfig
from sft_app.launch.job.conclude import asked_to_end, conclude, remove_empty_stacks
from sft_app.launch.job.job_errors import JobFailed, JobInterrupted
from sft_app.launch.job.messages import opening
from sft_app.launch.job.oom_kills import count_oom_kills
from sft_app.launch.job.smaller_batch import with_smaller_batch
from sft_app.launch.job.supervise import run_supervised
from sft_app.launch.job.worker_processes import (
    num_local_processes,
    screen_environment,
    worker_environment,
    world_size,
)
from sft_app.launch.warm.warm_python import WarmPython
from sft_app.records.earlier_starts import earlier_starts
from sft_app.records.failure import clear_failures
from sft_app.records.identity import identity_of
from sft_app.records.liveness import SECONDS_BETWEEN_STAMPS, stamp
from sft_app.records.result import Evaluation, RunResult, Status
from sft_app.records.run_files import CONFIG, STACKS

SECONDS_FOR_OTHER_STACKS = 3.0
"""Ranks wait for each other: the others notice a moment after the first."""

TRAINING_WORKER = "sft_app.training.worker"


def run_job(
    config: AppConfig,
    run_dir: Path,
    label: str | None = None,
    *,
    run_id: str | None = None,
    warm: WarmPython | None = None,
    refresh: Callable[[], None] | None = None,
    before: Evaluation | None = None,
) -> RunResult:
    """Run one job in `run_dir` and return its result, which stands in result.json as well.

    With a `label` it is a job of a sweep, and shows one line, which begins so. `run_id` is what the
    nodes of a job of several have agreed on. A single worker is forked from `warm`, if given.
    With trainer.auto_find_batch_size, one that runs out of memory goes on with smaller batches.
    `refresh` is called about once a second while the job runs: it brings pages up to date.
    `before`: what is known of the model before training, which is then not measured again.
    Raises JobFailed when the job failed, and JobInterrupted after a signal.
    """
    while True:
        try:
            return _run_once(
                config, run_dir, label, run_id=run_id, warm=warm, refresh=refresh, before=before
            )
        except JobFailed:
            smaller = with_smaller_batch(config, run_dir)
            if smaller is None:
                raise
            config = smaller
        trainer = config.trainer
        print(
            f"trainer.auto_find_batch_size: the job goes on with trainer.per_device_train_batch_"
            f"size={trainer.per_device_train_batch_size} trainer.gradient_accumulation_steps="
            f"{trainer.gradient_accumulation_steps}, as many rows a step.",
            flush=True,
        )


def _run_once(
    config: AppConfig,
    run_dir: Path,
    label: str | None,
    *,
    run_id: str | None,
    warm: WarmPython | None,
    refresh: Callable[[], None] | None,
    before: Evaluation | None,
) -> RunResult:
    try:
        earlier = earlier_starts(run_dir)
        save_config(config, run_dir / CONFIG)
        clear_failures(run_dir)
        shutil.rmtree(run_dir / STACKS, ignore_errors=True)
        result = initial_result(config, Status.running)
        result.evaluation_before = before
        earlier.note(result)
        result.write(run_dir)
    except OSError as error:
        raise JobFailed(f"{run_dir} cannot be written to: {error}") from error
    if label is None:
        print(opening(config, run_dir, num_local_processes(config.launch)), flush=True)
    identity = threading.Thread(target=_write_identity, args=(config, run_dir), daemon=True)
    identity.start()
    oom_kills = count_oom_kills()
    ended = run_supervised(
        worker_command(config.launch, run_dir / CONFIG, run_id=run_id or str(uuid.uuid4())),
        worker_environment(config.launch) | screen_environment(label),
        grace_seconds=config.launch.shutdown_grace_seconds,
        look=Overseer(run_dir, refresh).look,
        warm=warm if has_one_worker(config.launch) else None,
    )
    identity.join()
    more_oom_kills = (count_oom_kills() or 0) - (oom_kills or 0)
    try:
        result = conclude(run_dir, ended, launch=config.launch, oom_kills=max(0, more_oom_kills))
    except ValueError as error:  # somebody has removed the folder, or the file
        raise JobFailed(f"how the run ended cannot be told: {error}") from error
    remove_empty_stacks(run_dir)
    if ended.interrupted_by is not None:
        if ended.handler_before is not None and ended.interrupted_by.name.startswith("SIGUSR"):
            ended.handler_before(ended.interrupted_by, None)  # a scheduler's own: it requeues
        raise JobInterrupted(ended.interrupted_by)
    if result.status is Status.interrupted:  # the signal was sent to the workers themselves
        raise JobInterrupted(asked_to_end(ended.exit_code) or signal.SIGTERM)
    if result.status is not Status.completed:
        assert result.error is not None
        raise JobFailed(f"{result.error.type}: {result.error.message}", is_told=True)
    return result


class Overseer:
    """Looks after a job that runs: stamps its folder, refreshes its page, notices hung ranks."""

    def __init__(self, run_dir: Path, refresh: Callable[[], None] | None = None) -> None:
        """Look after the job in `run_dir`; `refresh` brings pages about it up to date."""
        self.run_dir = run_dir
        self._refresh = refresh
        self._last_stamp = float("-inf")
        self._hung_since: float | None = None

    def look(self) -> bool:
        """Do what is due; False when the job is to be ended, because it hangs."""
        now = time.monotonic()
        if now - self._last_stamp > SECONDS_BETWEEN_STAMPS:
            stamp(self.run_dir)
            self._last_stamp = now
        if self._refresh is not None:
            self._refresh()
        if self._hung_since is None and self._has_stacks():
            self._hung_since = now
        return self._hung_since is None or now - self._hung_since < SECONDS_FOR_OTHER_STACKS

    def _has_stacks(self) -> bool:
        return any(path.stat().st_size for path in (self.run_dir / STACKS).glob("rank-*.txt"))


def worker_command(
    launch: LaunchConfig, config_path: Path, *, run_id: str, module: str = TRAINING_WORKER
) -> list[str]:
    """Return the command of this node's workers: the worker itself for one, the agent for more.

    `run_id` is the same on all nodes of the job, and no other job's: nobody else can join it.
    """
    if has_one_worker(launch):
        return [sys.executable, "-m", module, str(config_path)]
    # Port 0: bound by the agent itself, so that no other process can take it in between.
    endpoint = launch.rdzv_endpoint if launch.nnodes > 1 else "127.0.0.1:0"
    assert endpoint is not None, "validated, or filled in from Slurm"
    return [
        sys.executable, "-m", "sft_app.launch.job.agent", str(config_path),
        "--module", module,
        "--nproc-per-node", str(num_local_processes(launch)),
        "--nnodes", str(launch.nnodes),
        "--node-rank", str(launch.node_rank or 0),
        "--rdzv-endpoint", endpoint,
        "--rdzv-timeout", str(launch.rdzv_timeout_seconds),
        "--run-id", run_id,
    ]  # fmt: skip


def has_one_worker(launch: LaunchConfig) -> bool:
    """Tell whether the job is one process, which needs no agent."""
    return launch.nnodes == 1 and num_local_processes(launch) == 1


def initial_result(config: AppConfig, status: Status) -> RunResult:
    """Make the record of a job that has not done anything yet."""
    return RunResult(
        status=status,
        started_at=datetime.now().astimezone().isoformat(timespec="seconds"),
        config_hash=config_hash(config),
        context_length=config.context_length,
        model=as_written(config.model.name_or_path),
        seed=config.seed,
        world_size=world_size(config.launch),
    )


def _write_identity(config: AppConfig, run_dir: Path) -> None:
    """Digest the inputs while the workers start; what cannot be read, they will complain of."""
    try:
        identity_of(config, world_size(config.launch)).write(run_dir)
    except OSError as error:
        print(f"sft-train: no identity.json was written: {error}", file=sys.stderr)
