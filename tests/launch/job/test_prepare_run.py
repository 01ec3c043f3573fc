"""A plain run is started, continued, done or refused, before any file is touched."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sft_app.common.errors import ConfigError
from sft_app.config.schema.app import AppConfig
from sft_app.launch.job.job_lock import only_one
from sft_app.launch.job.prepare_run import prepare_run
from sft_app.launch.job.run_job import initial_result
from sft_app.records.identity import identity_of
from sft_app.records.result import Status

Compose = Callable[..., AppConfig]


@pytest.fixture
def config(compose: Compose, tmp_path: Path) -> Callable[..., AppConfig]:
    """config("a=b", ...) with a model and data of a few bytes."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    (tmp_path / "chat.jsonl").write_text("[1]")

    def composed(*overrides: str) -> AppConfig:
        where = (f"model.name_or_path={tmp_path}/model", f"data.train={tmp_path}/chat.jsonl")
        return compose(*where, *overrides)

    return composed


def a_run(folder: Path, config: AppConfig, status: Status, *steps: int) -> Path:
    folder.mkdir()
    initial_result(config, status).write(folder)
    identity_of(config, 1).write(folder)
    for step in steps:
        checkpoint = folder / "checkpoints" / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        identity_of(config, 1).write(checkpoint)
    return folder


def files_of(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*")}


def test_the_same_command_goes_on_or_says_that_it_is_done(
    config: Callable[..., AppConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare_run(config(), tmp_path / "new")
    assert prepare_run(config(), a_run(tmp_path / "a", config(), Status.interrupted, 5))
    assert not prepare_run(config(), a_run(tmp_path / "b", config(), Status.completed, 5))
    assert "Nothing is left to do" in capsys.readouterr().out


def test_another_command_is_refused_with_what_differs_and_nothing_is_touched(
    config: Callable[..., AppConfig], tmp_path: Path
) -> None:
    run_dir = a_run(tmp_path / "a", config(), Status.completed, 5)
    before = files_of(run_dir)
    with pytest.raises(ConfigError, match=r"seed was 42 and is 1.*resume_anyway=true"):
        prepare_run(config("seed=1"), run_dir)
    assert files_of(run_dir) == before
    assert prepare_run(config("seed=1", "trainer.resume_anyway=true"), run_dir)


def test_a_run_that_came_to_nothing_may_be_started_with_other_settings(
    config: Callable[..., AppConfig], tmp_path: Path
) -> None:
    assert prepare_run(config("seed=1"), a_run(tmp_path / "a", config(), Status.failed))


def test_never_keeps_the_former_run_aside(config: Callable[..., AppConfig], tmp_path: Path) -> None:
    run_dir = a_run(tmp_path / "a", config(), Status.completed, 5)
    assert prepare_run(config("trainer.resume_from_checkpoint=never"), run_dir)
    assert not run_dir.exists()
    assert (tmp_path / ".replaced/a.1/checkpoints/checkpoint-5").is_dir()


def test_a_checkpoint_of_another_training_is_refused(
    config: Callable[..., AppConfig], tmp_path: Path
) -> None:
    run_dir = a_run(tmp_path / "a", config("seed=1"), Status.completed, 5)
    for place in (run_dir, run_dir / "checkpoints" / "checkpoint-5"):
        named = f"trainer.resume_from_checkpoint={place}"
        assert prepare_run(config(named, "seed=1"), tmp_path / "b")
        with pytest.raises(ConfigError, match="seed was 1 and is 42"):
            prepare_run(config(named), tmp_path / "b")
        assert prepare_run(config(named, "trainer.resume_anyway=true"), tmp_path / "b")


def test_a_checkpoint_that_does_not_say_what_it_is_of_is_refused(
    config: Callable[..., AppConfig], tmp_path: Path
) -> None:
    (tmp_path / "somewhere/checkpoint-5").mkdir(parents=True)
    named = f"trainer.resume_from_checkpoint={tmp_path}/somewhere/checkpoint-5"
    with pytest.raises(ConfigError, match=r"no identity\.json"):
        prepare_run(config(named), tmp_path / "b")


def test_a_run_that_is_running_is_left_alone(
    config: Callable[..., AppConfig], tmp_path: Path
) -> None:
    run_dir = a_run(tmp_path / "a", config(), Status.running, 5)
    with only_one(run_dir), pytest.raises(ConfigError, match="another process"):
        prepare_run(config(), run_dir)


def test_a_lora_checkpoint_is_recognised_where_adapter_is_left_out(
    config: Callable[..., AppConfig], tmp_path: Path
) -> None:
    """Also with resume_anyway: an adapter's weights fit no whole model."""
    run_dir = a_run(tmp_path / "a", config("adapter=lora"), Status.interrupted, 5)
    (run_dir / "checkpoints/checkpoint-5/adapter_config.json").write_text("{}")
    named = f"trainer.resume_from_checkpoint={run_dir}/checkpoints/checkpoint-5"
    for words in ((), ("trainer.resume_anyway=true",)):
        for asked, place in ((words, run_dir), ((named, *words), tmp_path / "b")):
            with pytest.raises(ConfigError, match=r"LoRA checkpoint.* add adapter=lora"):
                prepare_run(config(*asked), place)
    assert prepare_run(config("adapter=lora"), run_dir)
