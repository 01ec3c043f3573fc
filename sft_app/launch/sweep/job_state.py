"""What a job of a sweep needs when the sweep is (re)started: nothing, to go on, or a new start."""

from enum import StrEnum
from pathlib import Path

from sft_app.config.config_hash import config_hash
from sft_app.config.schema.app import AppConfig
from sft_app.records.result import Status, read_result
from sft_app.records.run_files import CHECKPOINTS

REPLACED = ".replaced"
"""Folder of a sweep that keeps runs whose settings have changed since."""


class JobState(StrEnum):
    """What stands in a job's folder, compared with what the job is to be."""

    new = "new"
    """Nothing worth keeping stands there."""
    done = "done"
    """Completed with exactly these settings."""
    unfinished = "unfinished"
    """Begun with exactly these settings: goes on from its newest checkpoint, if it has one."""
    changed = "changed"
    """Run with other settings."""


def job_state(run_dir: Path, config: AppConfig) -> JobState:
    """Look at a job's folder; `config` is as the job will have it, the budget applied."""
    has_checkpoints = (run_dir / CHECKPOINTS).is_dir()
    try:
        result = read_result(run_dir)
    except ValueError:  # never begun, or a record that no longer says how it was made
        return JobState.changed if has_checkpoints else JobState.new
    if result.status in (Status.pending, Status.skipped) and not has_checkpoints:
        return JobState.new
    if result.config_hash != config_hash(config):
        return JobState.changed
    return JobState.done if result.status is Status.completed else JobState.unfinished


def set_aside(run_dir: Path) -> Path:
    """Move a changed job's run out of the way, where nothing overwrites it; return the place."""
    folder = run_dir.parent / REPLACED
    folder.mkdir(exist_ok=True)
    number = 1
    while (folder / f"{run_dir.name}.{number}").exists():
        number += 1
    return run_dir.rename(folder / f"{run_dir.name}.{number}")
