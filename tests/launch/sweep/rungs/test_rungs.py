"""Budgets that grow, and which jobs of a rung are run: decided from the files that stand there."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from sft_app.common.errors import ConfigError
from sft_app.config.config_hash import config_hash
from sft_app.config.schema.app import AppConfig
from sft_app.launch.job.run_job import initial_result
from sft_app.launch.sweep.budget import apply_budget
from sft_app.launch.sweep.compose_jobs import SweepJob
from sft_app.launch.sweep.rungs.continue_budget import (
    check_can_continue,
    find_beginning,
    go_on_from,
)
from sft_app.launch.sweep.rungs.halving import drop, jobs_left, why_dropped
from sft_app.records.identity import identity_of
from sft_app.records.manifest import write_manifest
from sft_app.records.place import Place
from sft_app.records.result import Status

Compose = Callable[..., AppConfig]
HALVING = (
    "sweep=halving", "sweep.tokens=900", "sweep.tokens_per_step=100", "context_length=100",
    "trainer.lr_scheduler_type=constant_with_warmup", "trainer.warmup_steps=2",
    "trainer.gradient_accumulation_steps=1", "launch.device=cpu", "launch.nproc_per_node=1",
)  # fmt: skip


@pytest.fixture
def job(compose: Compose, tiny_model: Path, chat_file: Path) -> Callable[..., AppConfig]:
    def configured(*overrides: str) -> AppConfig:
        files = (f"model.name_or_path={tiny_model}", f"data.train={chat_file}")
        return apply_budget(compose(*HALVING, *files, *overrides))

    return configured


def finish(run_dir: Path, config: AppConfig, *, checkpoint: bool = True) -> None:
    """Leave what a completed run of `config` leaves."""
    run_dir.mkdir()
    identity_of(config, 1).write(run_dir)
    initial_result(config, Status.completed).write(run_dir)
    if checkpoint:
        folder = run_dir / "checkpoints" / f"checkpoint-{config.trainer.max_steps}"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"weights")
        write_manifest(folder)


def test_each_rung_has_three_times_the_tokens_of_the_one_before(
    job: Callable[..., AppConfig],
) -> None:
    assert [job(f"sweep.rung={n}").trainer.max_steps for n in (0, 1, 2)] == [1, 3, 9]


def test_a_job_goes_on_from_the_longest_finished_run_of_its_settings(
    job: Callable[..., AppConfig], tmp_path: Path
) -> None:
    for rung in (0, 1):
        finish(tmp_path / f"mine-{rung}", job(f"sweep.rung={rung}"))
    finish(tmp_path / "other-seed", job("sweep.rung=1", "seed=7"))
    finish(tmp_path / "other-method", job("sweep.rung=1", "rope=yarn"))
    config = job("sweep.rung=2")
    beginning = find_beginning(tmp_path / "mine-2", config)
    assert beginning is not None
    assert beginning.run_dir.name == "mine-1"
    begun = go_on_from(beginning, tmp_path / "mine-2", config)
    assert begun.trainer.resume_from_checkpoint == str(tmp_path / "mine-1/checkpoints/checkpoint-3")
    assert config_hash(begun) == config_hash(config), "where it began does not make it another job"

    (tmp_path / "mine-2/checkpoints/checkpoint-5").mkdir(parents=True)
    assert go_on_from(beginning, tmp_path / "mine-2", config) == config, "its own are newer"


def test_a_damaged_checkpoint_is_no_beginning(
    job: Callable[..., AppConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(tmp_path / "mine-0", job("sweep.rung=0"))
    (tmp_path / "mine-0/checkpoints/checkpoint-1/model.safetensors").write_bytes(b"w3ights")
    config = job("sweep.rung=1")
    beginning = find_beginning(tmp_path / "mine-1", config)
    assert go_on_from(beginning, tmp_path / "mine-1", config) == config
    assert "the last checkpoint of mine-0 is not whole" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trainer.lr_scheduler_type=cosine", "no run is the beginning of a longer one"),
        ("trainer.warmup_steps=0.1", "no run is the beginning of a longer one"),
        ("trainer.save_strategy=no", "writes none"),
        ("sweep.continue_budgets=false", "needs sweep.continue_budgets=true"),
        ("trainer.early_stopping_patience=2", "goes on from the last step"),
    ],
)
def test_what_would_be_another_training_is_refused(
    job: Callable[..., AppConfig], override: str, said: str
) -> None:
    check_can_continue(job())
    with pytest.raises(ConfigError, match=said):
        check_can_continue(job(override))


def place(rank: int) -> Place:
    return Place(rank=rank, entered=7, kept=2, measured="perplexity at 100 tokens: 12.3")


def test_the_best_third_is_run_and_the_others_are_told_their_place(
    job: Callable[..., AppConfig], tmp_path: Path
) -> None:
    finish(tmp_path / "mine-0", job("sweep.rung=0"))
    config = job("sweep.rung=1")
    beginning = find_beginning(tmp_path / "mine-1", config)

    def why(places: Mapping[str, Place]) -> str | None:
        return why_dropped(tmp_path / "mine-1", config, beginning, lambda _, rung: places)

    assert why({"mine-0": place(2)}) is None
    assert why({"mine-0": place(3)}) == (
        "place 3 of 7 on rung 0 (perplexity at 100 tokens: 12.3), of which 2 went on"
    )
    assert why({"other-0": place(1)}) == "its setting has no result on rung 0"


def test_what_was_dropped_stays_so_until_a_rung_below_has_something_left_to_do(
    job: Callable[..., AppConfig], tmp_path: Path
) -> None:
    jobs = [
        SweepJob(overrides=(), config=job(f"sweep.rung={n}"), run_dir=tmp_path / f"mine-{n}")
        for n in (0, 1, 2)
    ]
    assert jobs_left(jobs) == jobs
    finish(jobs[0].run_dir, jobs[0].config)
    for lost in jobs[1:]:
        lost.run_dir.mkdir()
        drop(lost.config, lost.run_dir, "place 3 of 7")
    assert jobs_left(jobs) == []
    other = dataclasses.replace(jobs[0], run_dir=tmp_path / "other-0")
    assert jobs_left([*jobs, other]) == [other, *jobs[1:]]
