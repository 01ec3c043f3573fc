"""One job of a sweep, where it runs: in this process, on a Ray worker, or on a Slurm node."""

import dataclasses
import fcntl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sft_app.config.app import AppConfig
from sft_app.launch.budget import apply_budget
from sft_app.launch.cell_state import CellState, cell_state
from sft_app.launch.job import JobFailed, initial_result, run_job
from sft_app.launch.out_of_memory import shorter_out_of_memory
from sft_app.records.result import RunError, RunResult, Status, read_result

LOCK = ".lock"


def run_cell(config: AppConfig, run_dir: Path, overrides: Sequence[str]) -> RunResult:
    """Run what is left to do of this cell, and return its result, which may be that of a failure.

    `overrides` are the job's own, as Hydra lists them. Raises JobInterrupted.
    """
    config = apply_budget(config)
    with only_one(run_dir):
        if cell_state(run_dir, config) is CellState.done:
            return read_result(run_dir)
        shorter = shorter_out_of_memory(run_dir, config, overrides)
        if shorter is not None:
            return skip(config, run_dir, shorter)
        try:
            return run_job(resuming(config), run_dir)
        except JobFailed:
            return read_result(run_dir)  # told already; the sweep goes on


def resuming(config: AppConfig) -> AppConfig:
    """Start from the newest complete checkpoint of this very folder, unless told otherwise."""
    if config.trainer.resume_from_checkpoint is not None:
        return config
    trainer = dataclasses.replace(config.trainer, resume_from_checkpoint="auto")
    return dataclasses.replace(config, trainer=trainer)


def skip(config: AppConfig, run_dir: Path, shorter: RunResult) -> RunResult:
    result = initial_result(config, Status.skipped)
    result.error = RunError(
        type="Skipped",
        message=f"the same settings ran out of memory at context_length={shorter.context_length}; "
        "sweep.skip_longer_after_oom=false tries anyway",
    )
    result.write(run_dir)
    print(f"{run_dir.name} skipped: {result.error.message}", flush=True)
    return result


@contextmanager
def only_one(run_dir: Path) -> Iterator[None]:
    """Hold the folder's lock, which the system releases however this process ends.

    Raises JobFailed when another process is running this very job: the same sweep, started twice.
    """
    with (run_dir / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JobFailed(
                f"{run_dir} is being worked on by another process: the same sweep was started "
                "twice. Wait for the other one, or end it."
            ) from None
        yield
