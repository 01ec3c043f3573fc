"""Bring a job's result.json to its final state, from what the workers left and how they ended."""

import contextlib
import dataclasses
import os
import signal
import sys
import time
from datetime import datetime
from pathlib import Path

from sft_app.common.counted import counted
from sft_app.config.schema.launch import LaunchConfig
from sft_app.launch.job.supervise import PASSED_ON, Ended
from sft_app.records.failure import Failure, clear_failures, first_failure
from sft_app.records.liveness import remove_stamp
from sft_app.records.result import RunError, RunResult, Status, read_result
from sft_app.records.run_files import LOG, RESULT, STACKS
from sft_app.records.step_log import last_line, note_step

LESS_MEMORY = (
    "trainer.gradient_checkpointing=true, a smaller trainer.per_device_train_batch_size with as "
    "much more trainer.gradient_accumulation_steps, adapter=lora, "
    "trainer.parallelism=fsdp over more processes, or a shorter context_length"
)
"""What takes less memory, in the order in which it changes the training least."""


def conclude(run_dir: Path, ended: Ended, *, launch: LaunchConfig, oom_kills: int) -> RunResult:
    """Return the job's final result, which stands in result.json unless the disk is full.

    `oom_kills`: processes that the kernel has ended for memory while the job ran.
    """
    result = read_result(run_dir)
    failure = first_failure(run_dir)
    remove_stamp(run_dir)
    if ended.exit_code == 0 and result.status is Status.completed:
        clear_failures(run_dir)
        return result
    newest = last_line(run_dir)  # result.json lags behind it by a moment
    if newest is not None:
        note_step(result, newest)
    result.finished_at = datetime.now().astimezone().isoformat(timespec="seconds")
    started = datetime.fromisoformat(result.started_at).timestamp()
    result.seconds.setdefault("total", round(time.time() - started, 3))
    result.status, result.error = _how_it_ended(run_dir, result, ended, failure, launch, oom_kills)
    if result.status is Status.out_of_memory:
        result.error = _with_way_out(result, failure)
    try:
        result.write(run_dir)
    except OSError as error:
        print(f"sft-train: {run_dir / RESULT} cannot be written: {error}", file=sys.stderr)
    clear_failures(run_dir)
    _explain(result, failure, run_dir)
    return result


def _how_it_ended(
    run_dir: Path,
    result: RunResult,
    ended: Ended,
    failure: Failure | None,
    launch: LaunchConfig,
    oom_kills: int,
) -> tuple[Status, RunError]:
    if ended.gave_up:
        return Status.failed, _hung(run_dir, result, launch)
    if ended.interrupted_by is not None:
        message = f"ended by {ended.interrupted_by.name}"
        return Status.interrupted, RunError(type="Interrupted", message=message)
    asked = asked_to_end(ended.exit_code)
    if failure is None and asked is not None:  # before training, or by hand, not through us
        return Status.interrupted, RunError(type="Interrupted", message=f"ended by {asked.name}")
    killed = ended.exit_code in (-signal.SIGKILL, 128 + signal.SIGKILL)
    if failure is not None and failure.error.type != "WorkerKilled":
        return failure.status, failure.error
    if failure is not None or killed:
        return _killed(failure, oom_kills)
    how = f"code {ended.exit_code}"
    if ended.exit_code < 0:
        how = f"signal {signal.Signals(-ended.exit_code).name}"
    elif ended.exit_code == 0:
        how = "code 0 before the run was complete"
    message = f"a worker process ended with {how} without saying why"
    return Status.failed, RunError(type="WorkerDied", message=message)


def asked_to_end(exit_code: int) -> signal.Signals | None:
    """Return the signal by which somebody has asked a process to end, from its exit code."""
    number = -exit_code if exit_code < 0 else exit_code - 128
    return next((signum for signum in PASSED_ON if signum == number), None)


def _killed(failure: Failure | None, oom_kills: int) -> tuple[Status, RunError]:
    """Say who was killed with SIGKILL, and whether the kernel did it because memory ran out."""
    rank = failure.error.rank if failure is not None else 0
    if oom_kills:
        message = "the kernel ended it because the machine's memory ran out (its counters say so)"
        error = RunError(type="WorkerKilled", message=message, rank=rank)
        return Status.out_of_memory, error
    message = (
        "was killed with SIGKILL, by a person or a scheduler: the kernel's counters of this "
        "machine do not say that memory ran out"
    )
    return Status.failed, RunError(type="WorkerKilled", message=message, rank=rank)


def _with_way_out(result: RunResult, failure: Failure | None) -> RunError:
    """Say at which length memory ran out, and what takes less of it, in order of effect.

    Ranks that could still do so have estimated it; of others, what helps in general is named.
    """
    assert result.error is not None
    found = failure.way_out if failure is not None else None
    way_out = f", {found}" if found else f": use {LESS_MEMORY}"
    steps = f"after {counted(result.steps, 'step')}"
    after = steps if result.steps else "before the first step was complete"
    return dataclasses.replace(
        result.error,
        message=f"{result.error.message.rstrip('. ')}. Memory ran out at context_length="
        f"{result.context_length}, {after}{way_out}.",
    )


def _hung(run_dir: Path, result: RunResult, launch: LaunchConfig) -> RunError:
    """Say what took too long, and where each rank stands; phases that ended have their seconds."""
    files = [path for path in (run_dir / STACKS).glob("rank-*.txt") if path.stat().st_size]
    told = ", ".join(sorted(path.stem.removeprefix("rank-") for path in files))
    if "prepare" in result.seconds and "train" not in result.seconds:
        limit = f"launch.timeout={launch.timeout}"
        what = f"no micro-batch, step or checkpoint was finished for {limit} seconds"
    else:
        phase = next(p for p in ("load", "prepare", "save") if p not in result.seconds)
        limit = f"launch.model_timeout={launch.model_timeout}"
        what = f"to {phase} the model took more than {limit} seconds"
    limit = limit.partition("=")[0]
    return RunError(
        type="Hung",
        message=f"{what}. Where each rank stands is in {run_dir / STACKS} (ranks {told}); give a "
        f"larger {limit} if it takes that long",
    )


def _explain(result: RunResult, failure: Failure | None, run_dir: Path) -> None:
    assert result.error is not None
    if result.status is Status.interrupted:
        print(f"\nsft-train: {result.error.message}; what there is stands in {run_dir}",
              file=sys.stderr)  # fmt: skip
        return
    rank = f" (rank {result.error.rank})" if result.error.rank is not None else ""
    print(f"\nsft-train: {result.status}: {result.error.type}{rank}: {result.error.message}",
          file=sys.stderr)  # fmt: skip
    if failure is not None and os.environ.get("HYDRA_FULL_ERROR"):
        print(failure.error.traceback, file=sys.stderr)
    else:
        print(f"The traceback stands in {run_dir / RESULT}, the log in {run_dir / LOG}.",
              file=sys.stderr)  # fmt: skip


def remove_empty_stacks(run_dir: Path) -> None:
    """Leave no folder of stacks when there was nothing to tell."""
    for path in (run_dir / STACKS).glob("rank-*.txt"):
        if not path.stat().st_size:
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        (run_dir / STACKS).rmdir()
