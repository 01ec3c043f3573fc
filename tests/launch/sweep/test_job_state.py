"""Continuing a sweep: what is done stays, what was begun goes on, what changed is kept aside."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from sft_app.config.schema.app import AppConfig
from sft_app.launch.job.run_job import JobFailed, initial_result
from sft_app.launch.sweep.job_lock import is_being_run, only_one
from sft_app.launch.sweep.job_state import JobState, job_state, set_aside
from sft_app.launch.sweep.out_of_memory import shorter_out_of_memory
from sft_app.records.result import Status

Compose = Callable[..., AppConfig]


def leave(run_dir: Path, config: AppConfig, status: Status) -> Path:
    """What a job with this outcome leaves behind."""
    run_dir.mkdir(parents=True, exist_ok=True)
    initial_result(config, status).write(run_dir)
    return run_dir


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (Status.completed, JobState.done),
        (Status.failed, JobState.unfinished),
        (Status.out_of_memory, JobState.unfinished),
        (Status.interrupted, JobState.unfinished),
        (Status.running, JobState.unfinished),  # killed: nothing could write how it ended
        (Status.pending, JobState.new),
        (Status.skipped, JobState.new),
    ],
)
def test_the_outcome_decides(
    compose: Compose, tmp_path: Path, status: Status, state: JobState
) -> None:
    config = compose("context_length=512")
    assert job_state(leave(tmp_path / "job", config, status), config) is state


def test_other_settings_start_anew(compose: Compose, tmp_path: Path) -> None:
    run_dir = leave(tmp_path / "job", compose("context_length=512"), Status.completed)
    assert job_state(run_dir, compose("context_length=512", "seed=7")) is JobState.changed


def test_checkpoints_of_other_settings_are_never_gone_on_from(
    compose: Compose, tmp_path: Path
) -> None:
    run_dir = leave(tmp_path / "job", compose("context_length=512"), Status.pending)
    (run_dir / "checkpoints").mkdir()
    assert job_state(run_dir, compose("context_length=512", "seed=7")) is JobState.changed
    (run_dir / "result.json").write_text("{ half")
    assert job_state(run_dir, compose("context_length=512")) is JobState.changed


def test_where_a_job_runs_is_no_change(compose: Compose, tmp_path: Path) -> None:
    run_dir = leave(tmp_path / "job", compose("context_length=512"), Status.completed)
    same = compose("context_length=512", "data.num_proc=2", "sweep.name=other")
    assert job_state(run_dir, same) is JobState.done


def test_a_changed_run_is_kept_aside(compose: Compose, tmp_path: Path) -> None:
    for _ in range(2):
        run_dir = leave(tmp_path / "job", compose("context_length=512"), Status.completed)
        set_aside(run_dir)
        assert not run_dir.exists()
    kept = sorted(path.name for path in (tmp_path / ".replaced").iterdir())
    assert kept == ["job.1", "job.2"]


def test_the_same_job_does_not_run_twice_at_once(tmp_path: Path) -> None:
    assert not is_being_run(tmp_path)
    with only_one(tmp_path), pytest.raises(JobFailed, match="started twice"), only_one(tmp_path):
        pass
    with only_one(tmp_path):
        assert is_being_run(tmp_path)
    assert not is_being_run(tmp_path)


def ran_out(folder: Path, config: AppConfig, overrides: list[str]) -> None:
    leave(folder, config, Status.out_of_memory)
    (folder / ".hydra").mkdir()
    (folder / ".hydra/overrides.yaml").write_text("\n".join(f"- {o}" for o in overrides))


def test_longer_contexts_of_the_same_settings_are_spared(compose: Compose, tmp_path: Path) -> None:
    shorter = ["context_length=512", "rope=yarn"]
    ran_out(tmp_path / "512", compose(*shorter), shorter)
    longer, other_method = ["context_length=1024", "rope=yarn"], ["context_length=1024", "rope=ntk"]

    def blocked(overrides: list[str], *more: str) -> bool:
        config = compose(*overrides, *more)
        return shorter_out_of_memory(tmp_path / "here", config, overrides) is not None

    assert blocked(longer)
    assert not blocked(other_method)
    assert not blocked(["context_length=256", "rope=yarn"])
    assert not blocked(longer, "sweep.skip_longer_after_oom=false")


def test_a_skipped_cell_says_why(compose: Compose, tmp_path: Path) -> None:
    from sft_app.launch.sweep.run_sweep_job import skip

    shorter = dataclasses.replace(
        initial_result(compose("context_length=512"), Status.out_of_memory)
    )
    result = skip(compose("context_length=1024"), tmp_path, shorter)
    assert result.status is Status.skipped
    assert result.error is not None
    assert "context_length=512" in result.error.message
