"""Continuing a sweep: what is done stays, what was begun goes on, what changed is kept aside."""

import dataclasses
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sft_app.config.schema.app import AppConfig
from sft_app.launch.job.job_errors import JobFailed
from sft_app.launch.job.job_lock import is_being_run, only_one
from sft_app.launch.job.job_state import JobState, job_state, look_at, set_aside
from sft_app.launch.job.run_job import initial_result
from sft_app.launch.sweep.out_of_memory import shorter_out_of_memory
from sft_app.records.earlier_starts import EarlierStarts, earlier_starts
from sft_app.records.identity import identity_of
from sft_app.records.liveness import STAMP, stamp
from sft_app.records.result import Status, read_result

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


def test_what_a_finished_run_was_measured_on_is_compared_by_its_content(
    compose: Compose, tmp_path: Path
) -> None:
    """Cells of a sweep would be compared on different documents; training goes on all the same."""
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time.")
    config = compose("context_length=512", f"evaluation.documents={text}")
    for status in (Status.completed, Status.interrupted):
        identity_of(config, 1).write(leave(tmp_path / status, config, status))
    text.write_text("Another text, and longer.")
    found = look_at(tmp_path / Status.completed, config)
    assert found.state is JobState.changed
    assert found.differences == ("the content of evaluation.documents has changed",)
    assert job_state(tmp_path / Status.interrupted, config) is JobState.unfinished


def test_the_time_of_earlier_starts_is_kept(compose: Compose, tmp_path: Path) -> None:
    """Two starts of 60 and 100 s, on one process and on four, the second one killed; then a third,
    which a sweep prepares, on two."""
    config = compose("context_length=512")
    run_dir = leave(tmp_path / "job", config, Status.interrupted)
    first = read_result(run_dir)
    first.seconds = {"train": 50.0, "total": 60.0}
    first.write(run_dir)
    assert earlier_starts(run_dir) == EarlierStarts(), "nothing of it is gone on from"
    (run_dir / "checkpoints" / "checkpoint-5").mkdir(parents=True)
    assert earlier_starts(run_dir) == EarlierStarts(seconds=60, process_seconds=60)

    killed = initial_result(with_processes(config, 4), Status.running)
    earlier_starts(run_dir).note(killed)
    killed.seconds = {"load": 3.0}
    killed.write(run_dir)
    stamp(run_dir)
    alive = datetime.fromisoformat(killed.started_at).timestamp() + 100
    os.utime(run_dir / STAMP, (alive, alive))
    of_both = EarlierStarts(seconds=160, process_seconds=460)
    assert earlier_starts(run_dir) == of_both

    pending = initial_result(with_processes(config, 2), Status.pending)
    pending.started_at = datetime.fromtimestamp(alive + 999, tz=UTC).isoformat()
    earlier_starts(run_dir).note(pending)
    pending.write(run_dir)
    assert earlier_starts(run_dir) == of_both


def test_a_record_that_knows_of_no_processes_had_as_many_as_now(
    compose: Compose, tmp_path: Path
) -> None:
    """Of version 0.2, which counted the wall time alone."""
    config = with_processes(compose("context_length=512"), 2)
    run_dir = begun(tmp_path / "job", config, Status.interrupted)
    old = read_result(run_dir)
    old.seconds, old.seconds_before = {"total": 60.0}, 40.0
    old.write(run_dir)
    assert earlier_starts(run_dir) == EarlierStarts(seconds=100, process_seconds=200)


def with_processes(config: AppConfig, number: int) -> AppConfig:
    launch = dataclasses.replace(config.launch, nproc_per_node=number)
    return dataclasses.replace(config, launch=launch)


def test_checkpoints_of_other_settings_are_never_gone_on_from(
    compose: Compose, tmp_path: Path
) -> None:
    run_dir = leave(tmp_path / "job", compose("context_length=512"), Status.pending)
    (run_dir / "checkpoints" / "checkpoint-5").mkdir(parents=True)
    assert job_state(run_dir, compose("context_length=512", "seed=7")) is JobState.changed
    (run_dir / "result.json").write_text("{ half")
    assert job_state(run_dir, compose("context_length=512")) is JobState.changed


def test_where_a_job_runs_is_no_change(compose: Compose, tmp_path: Path) -> None:
    run_dir = leave(tmp_path / "job", compose("context_length=512"), Status.completed)
    same = compose("context_length=512", "data.num_proc=2", "sweep.name=other")
    assert job_state(run_dir, same) is JobState.done


def begun(run_dir: Path, config: AppConfig, status: Status, world_size: int = 1) -> Path:
    leave(run_dir, config, status)
    identity_of(config, world_size).write(run_dir)
    (run_dir / "checkpoints" / "checkpoint-5").mkdir(parents=True)
    return run_dir


@pytest.fixture
def inputs(tmp_path: Path) -> list[str]:
    """A model's files and a data file, small enough to be digested at once."""
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"):
        (model / name).write_text(f"what {name} says")
    (tmp_path / "chat.jsonl").write_text("[1]")
    return [f"model.name_or_path={model}", f"data.train={tmp_path / 'chat.jsonl'}"]


@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("chat.jsonl", "data.train"),
        ("model/model.safetensors", "model"),
        ("model/config.json", "model"),
        ("model/tokenizer.json", "tokenizer"),
        ("model/chat_template.jinja", "tokenizer"),
    ],
)
@pytest.mark.parametrize("status", [Status.completed, Status.interrupted])
def test_a_file_that_changed_in_place_is_a_change(
    compose: Compose, tmp_path: Path, inputs: list[str], file: str, key: str, status: Status
) -> None:
    """At equal size and with its time put back."""
    run_dir = begun(tmp_path / "job", compose(*inputs), status)
    assert job_state(run_dir, compose(*inputs)) is not JobState.changed
    path = tmp_path / file
    stat = path.stat()
    path.write_text(path.read_text()[::-1])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    found = look_at(run_dir, compose(*inputs))
    assert found.state is JobState.changed
    assert f"the content of {key} has changed" in found.differences


@pytest.mark.parametrize(
    ("override", "in_difference"),
    [
        ("trainer.learning_rate=1e-3", "trainer.learning_rate was 2e-05 and is 0.001"),
        ("seed=7", "seed was 42 and is 7"),
        ("trainer.max_steps=9", "trainer.max_steps was -1 and is 9"),
        ("rope=yarn", 'rope.method was "auto" and is "yarn"'),
        ("tokenizer.chat_template=chatml", "tokenizer.chat_template was null"),
        ("trainer.gradient_accumulation_steps=1", "8 rows (per device x accumulated x processes)"),
        ("adapter=lora", 'adapter.method was "none" and is "lora"'),
    ],
)
def test_each_difference_is_named_with_both_values(
    compose: Compose, tmp_path: Path, inputs: list[str], override: str, in_difference: str
) -> None:
    run_dir = begun(tmp_path / "job", compose(*inputs), Status.interrupted)
    found = look_at(run_dir, compose(*inputs, override))
    assert found.state is JobState.changed
    assert any(in_difference in difference for difference in found.differences), found


def test_how_a_step_is_cut_is_no_change_and_told(
    compose: Compose, tmp_path: Path, inputs: list[str]
) -> None:
    run_dir = begun(tmp_path / "job", compose(*inputs), Status.interrupted)
    two = compose(
        *inputs, "launch.nproc_per_node=2", "trainer.gradient_accumulation_steps=2",
        "trainer.per_device_train_batch_size=2", "trainer.save_steps=7",
    )  # fmt: skip
    found = look_at(run_dir, two)
    assert found.state is JobState.unfinished
    assert "2 processes instead of 1: the order of the data stays" in found.notes[0]


def test_how_a_step_is_cut_is_a_change_where_it_decides_what_is_left_out(
    compose: Compose, tmp_path: Path, inputs: list[str]
) -> None:
    """Of 21 rows, epochs had 5 steps of 4 at once, and 6 of 4 one by one: the run that went on was
    back in an epoch that it had ended."""
    dropping = [*inputs, "+trainer.extra.dataloader_drop_last=true"]
    cuts = [
        compose(
            *dropping, f"trainer.per_device_train_batch_size={rows}",
            f"trainer.gradient_accumulation_steps={4 // rows}",
        )
        for rows in (4, 1)
    ]  # fmt: skip
    run_dir = begun(tmp_path / "job", cuts[0], Status.interrupted)
    assert job_state(run_dir, cuts[0]) is JobState.unfinished
    found = look_at(run_dir, cuts[1])
    assert found.state is JobState.changed
    assert "does not fill 4 rows" in found.differences[0]
    old = dataclasses.replace(identity_of(cuts[0], 1), rows_at_once=None)
    old.write(run_dir)
    assert job_state(run_dir, cuts[1]) is JobState.unfinished, "it does not say"


def test_what_another_job_ran_for_is_done_as_long_as_that_is_of_the_same_files(
    compose: Compose, tmp_path: Path, inputs: list[str]
) -> None:
    """Where the model changed in place, the two may no longer do the same."""
    linear, yarn = (compose(*inputs, f"rope={method}") for method in ("linear", "yarn"))
    begun(tmp_path / "linear", linear, Status.completed)
    identity_of(yarn, 1).write(leave(tmp_path / "yarn", yarn, Status.shared))
    result = read_result(tmp_path / "yarn")
    result.same_as = "linear"
    result.write(tmp_path / "yarn")
    assert job_state(tmp_path / "yarn", yarn) is JobState.done
    (tmp_path / "model/config.json").write_text('{"max_position_embeddings": 32}')
    assert job_state(tmp_path / "linear", linear) is JobState.changed
    assert job_state(tmp_path / "yarn", yarn) is JobState.new
    set_aside(tmp_path / "linear")
    begun(tmp_path / "linear", linear, Status.completed)
    assert job_state(tmp_path / "linear", linear) is JobState.done
    assert job_state(tmp_path / "yarn", yarn) is JobState.new, "nobody has compared them again"


def test_what_is_measured_matters_when_it_was_completed(
    compose: Compose, tmp_path: Path, inputs: list[str]
) -> None:
    other = compose(*inputs, "evaluation.max_examples=3")
    unfinished = begun(tmp_path / "a", compose(*inputs), Status.interrupted)
    completed = begun(tmp_path / "b", compose(*inputs), Status.completed)
    assert job_state(unfinished, other) is JobState.unfinished
    assert job_state(completed, other) is JobState.changed


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
