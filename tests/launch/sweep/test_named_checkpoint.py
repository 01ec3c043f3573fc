"""A sweep that names a checkpoint: of the same training, and only until a job has its own."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sft_app.common.errors import ConfigError
from sft_app.config.schema.app import AppConfig
from sft_app.launch.sweep.compose_jobs import SweepJob
from sft_app.launch.sweep.named_checkpoint import check_named_checkpoints, own_checkpoints_first
from sft_app.records.identity import identity_of

Compose = Callable[..., AppConfig]


def job(config: AppConfig, name: str) -> SweepJob:
    return SweepJob(overrides=(), config=config, run_dir=Path(name))


def test_a_job_goes_on_from_a_checkpoint_of_its_own_training_only(
    compose: Compose, tmp_path: Path
) -> None:
    """As one run does: of two learning rates, one at most is the checkpoint's."""
    checkpoint = tmp_path / "run/checkpoints/checkpoint-4"
    checkpoint.mkdir(parents=True)
    named = f"trainer.resume_from_checkpoint={checkpoint}"
    same, other = (compose(named, f"trainer.learning_rate={rate}") for rate in (1e-4, 1e-3))
    with pytest.raises(ConfigError, match=r"job same: .* has no identity\.json"):
        check_named_checkpoints([job(same, "same")])
    identity_of(same, 1).write(tmp_path / "run")
    check_named_checkpoints([job(same, "same"), job(compose(), "from the first step")])
    with pytest.raises(ConfigError, match=r"job other: .*learning_rate was 0\.0001 and is 0\.001"):
        check_named_checkpoints([job(same, "same"), job(other, "other")])
    knowing = compose(named, "trainer.learning_rate=1e-3", "trainer.resume_anyway=true")
    check_named_checkpoints([job(knowing, "other")])


def test_what_a_job_has_saved_comes_before_what_it_began_with(
    compose: Compose, tmp_path: Path
) -> None:
    def resumes(run_dir: str, setting: str) -> str | None:
        config = compose(f"trainer.resume_from_checkpoint={setting}")
        return own_checkpoints_first(config, tmp_path / run_dir).trainer.resume_from_checkpoint

    (tmp_path / "begun/checkpoints/checkpoint-5").mkdir(parents=True)
    assert resumes("new", "/another/run") == "/another/run"
    assert resumes("begun", "/another/run") == "auto"
    assert resumes("begun", "never") == "never"
    own = str(tmp_path / "begun/checkpoints/checkpoint-5")
    assert resumes("begun", own) == own
