"""What a job needs when it is (re)started: nothing, to go on, a new start, or a decision.

One function for plain runs and for the jobs of sweeps, here, on Ray and on Slurm.
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from sft_app.config.config_hash import config_hash
from sft_app.config.schema.app import AppConfig
from sft_app.launch.job.worker_processes import world_size
from sft_app.records.identity import compare, equal_but_for_rope, identity_of, read_identity
from sft_app.records.result import RunResult, Status, read_result
from sft_app.records.run_files import CHECKPOINTS

REPLACED = ".replaced"
"""Folder beside runs that keeps those which were moved out of the way."""


class JobState(StrEnum):
    """What stands in a job's folder, compared with what the job is to be."""

    new = "new"
    """Nothing worth keeping stands there."""
    done = "done"
    """Completed with exactly these settings and files."""
    unfinished = "unfinished"
    """Begun with exactly these: goes on from its newest checkpoint, if it has one."""
    changed = "changed"
    """Run with other settings or files."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What stands in a job's folder."""

    state: JobState
    differences: tuple[str, ...] = ()
    """What has changed."""
    notes: tuple[str, ...] = ()
    """What has changed and is no reason to stop, such as the number of processes."""
    has_work: bool = False
    """Whether a checkpoint or a completed run would be lost with it."""


def look_at(run_dir: Path, config: AppConfig) -> Found:
    """Compare a job's folder with `config`, as the job will have it (a sweep's budget applied)."""
    has_checkpoints = any((run_dir / CHECKPOINTS).glob("checkpoint-*"))
    result = _read(run_dir)
    if result is None and not has_checkpoints:
        return Found(state=JobState.new)
    if result is not None and result.status is Status.shared and not has_checkpoints:
        return Found(state=_state_of_shared(run_dir, config, result))
    not_begun = result is not None and result.status in (Status.pending, Status.skipped)
    if not_begun and not has_checkpoints:
        return Found(state=JobState.new)
    completed = result is not None and result.status is Status.completed
    has_work = has_checkpoints or completed
    differences, notes = _compare(run_dir, config, result, completed=completed)
    state = JobState.done if completed else JobState.unfinished
    if differences:
        state = JobState.changed
    return Found(state=state, differences=differences, notes=notes, has_work=has_work)


def job_state(run_dir: Path, config: AppConfig) -> JobState:
    """Return the state alone."""
    return look_at(run_dir, config).state


def set_aside(run_dir: Path) -> Path:
    """Move a run out of the way, where nothing overwrites it; return the place."""
    folder = run_dir.parent / REPLACED
    folder.mkdir(exist_ok=True)
    number = 1
    while (folder / f"{run_dir.name}.{number}").exists():
        number += 1
    return run_dir.rename(folder / f"{run_dir.name}.{number}")


def _state_of_shared(run_dir: Path, config: AppConfig, result: RunResult) -> JobState:
    """A job that another one ran for is done when that one is, with the same settings and files."""
    other_dir = run_dir.parent / result.same_as if result.same_as else None
    other = _read(other_dir) if other_dir else None
    if other_dir is None or other is None or other.status is not Status.completed:
        return JobState.new
    if result.config_hash != config_hash(config):
        return JobState.new
    now = identity_of(config, world_size(config.launch))
    found, its = read_identity(run_dir), read_identity(other_dir)  # older records have none
    would_do_the_same = found is None or not compare(found, now, completed=True).differences
    has_done_it = its is None or equal_but_for_rope(its, now)
    return JobState.done if would_do_the_same and has_done_it else JobState.new


def _read(run_dir: Path) -> RunResult | None:
    try:
        return read_result(run_dir)
    except ValueError:  # never begun, or a record that no longer says how it was made
        return None


def _compare(
    run_dir: Path, config: AppConfig, result: RunResult | None, *, completed: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    before = read_identity(run_dir)
    if before is not None:
        found = compare(before, identity_of(config, world_size(config.launch)), completed=completed)
        return found.differences, found.notes
    if result is not None and result.config_hash == config_hash(config):
        return (), ("no identity.json says from which files it was made: settings are equal",)
    return ("its settings differ, and no identity.json says which",), ()
