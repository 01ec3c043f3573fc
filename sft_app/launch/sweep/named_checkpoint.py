"""Jobs that begin with a checkpoint which the sweep's command names."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from sft_app.common.errors import ConfigError
from sft_app.config.schema.app import AppConfig
from sft_app.launch.job.prepare_run import check_adapter, check_same_training
from sft_app.launch.sweep.compose_jobs import SweepJob
from sft_app.records.run_files import CHECKPOINTS


def check_named_checkpoints(jobs: Sequence[SweepJob]) -> None:
    """Raise ConfigError for the first job that would go on from another training than its own."""
    for job in jobs:
        place = _named(job.config)
        if place is None:
            continue
        try:
            check_adapter(job.config, place)
            check_same_training(job.config, place)
        except ConfigError as error:
            raise ConfigError(f"job {job.name}: {error}") from error


def own_checkpoints_first(config: AppConfig, run_dir: Path) -> AppConfig:
    """Return the configuration of a job that has begun, which goes on from what it has saved.

    The checkpoint that it began with is the command's; the same command continues the sweep.
    """
    place = _named(config)
    has_own = any((run_dir / CHECKPOINTS).glob("checkpoint-*"))
    if place is None or not has_own or place.absolute().is_relative_to(run_dir.absolute()):
        return config
    trainer = dataclasses.replace(config.trainer, resume_from_checkpoint="auto")
    return dataclasses.replace(config, trainer=trainer)


def _named(config: AppConfig) -> Path | None:
    setting = config.trainer.resume_from_checkpoint
    return None if setting in (None, "never", "auto") else Path(str(setting)).expanduser()
