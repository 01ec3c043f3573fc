"""Compose the jobs of a sweep before anything starts."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf, open_dict

from sft_app.common.errors import ConfigError
from sft_app.compat import hydra_internals
from sft_app.config.conf_files import group_options
from sft_app.config.hydra_callback import typed_without_hydra
from sft_app.config.job_folders import keys_left_out
from sft_app.config.schema.app import AppConfig
from sft_app.config.validation.validate import validate

SET_BY_THE_SWEEP = (
    "sweep.lengths",
    "sweep.heldout_length",
    "sweep.tokens_per_step",
    "launch.nproc_per_node",
)
"""Settings that preparing a sweep may add to every job's; they name no folder."""


@dataclass(frozen=True, kw_only=True)
class SweepJob:
    """One job of a sweep, as it is going to run."""

    overrides: tuple[str, ...]
    config: AppConfig
    run_dir: Path

    @property
    def name(self) -> str:
        """Return the name of the job's folder."""
        return self.run_dir.name


def compose_jobs(master: DictConfig, *, on_slurm: bool) -> list[SweepJob]:
    """Compose and validate every job, in the order in which Hydra will start them.

    `master` is the sweep's own configuration; the jobs' folders are named here, too. Raises
    ConfigError for the first bad one, with its name.
    """
    loader = hydra_internals.sweep_config_loader()  # without it, glob() cannot be listed
    overrides = OverridesParser.create(config_loader=loader).parse_overrides(_parameters(master))
    swept = {o.key_or_group for o in overrides if o.is_sweep_override()}
    check_one_folder(swept)
    fixed = [o.key_or_group for o in overrides if o.key_or_group not in swept]
    unnamed = keys_left_out(fixed, [key for key in fixed if group_options(key)])
    unnamed += [key for key in SET_BY_THE_SWEEP if key not in swept]
    add_hydra_override(
        master, f"hydra.job.config.override_dirname.exclude_keys=[{','.join(unnamed)}]"
    )
    add_hydra_override(master, f"hydra.sweep.dir='{Path(master.hydra.sweep.dir).absolute()}'")
    batch = hydra_internals.split_sweep(overrides)
    if not batch or not batch[0]:
        raise ConfigError(
            "the sweep has no job: some setting has no value, such as a glob() without a match."
        )
    jobs = [_compose_job(master, tuple(o), number, on_slurm) for number, o in enumerate(batch)]
    _check_folders(jobs)
    return jobs


def check_one_folder(swept: Iterable[str]) -> None:
    """Raise ConfigError where a setting that names the sweep's folder is among those that vary."""
    for key in sorted({"sweep.name", "run.name"} & set(swept)):
        raise ConfigError(
            f"{key} has several values, and all jobs of a sweep go into one folder: start a sweep "
            "for each, sweep.name=..., or leave it out."
        )


def add_hydra_override(master: DictConfig, override: str) -> None:
    """Add a `hydra.*` setting for every job: jobs are composed from these lists of overrides."""
    _append(master, "hydra", override)


def add_task_override(master: DictConfig, override: str) -> None:
    """Add a setting of ours for every job."""
    _append(master, "task", override)


def _append(master: DictConfig, which: str, override: str) -> None:
    with hydra_internals.writable_overrides(master) as overrides:
        overrides[which].append(override)


def _parameters(master: DictConfig) -> list[str]:
    """List what varies: an experiment's hydra.sweeper.params, then the command line."""
    params = OmegaConf.select(master, "hydra.sweeper.params") or {}
    command_line = OmegaConf.to_container(master.hydra.overrides.task)
    assert isinstance(command_line, list)
    return [f"{key}={value}" for key, value in params.items()] + [str(o) for o in command_line]


def _compose_job(
    master: DictConfig, overrides: tuple[str, ...], number: int, on_slurm: bool
) -> SweepJob:
    loader = hydra_internals.sweep_config_loader()
    try:
        composed = loader.load_sweep_config(master, list(overrides))
    except ConfigCompositionException as error:
        cause = f" {error.__cause__}" if error.__cause__ else ""
        raise ConfigError(f"job {' '.join(overrides)}: {error}{cause}") from error
    with open_dict(composed):
        composed.hydra.job.id, composed.hydra.job.num = str(number), number
    run_dir = Path(composed.hydra.sweep.dir) / str(composed.hydra.sweep.subdir)
    try:
        config = typed_without_hydra(composed)
        validate(config, on_slurm=on_slurm)
    except ConfigError as error:
        raise ConfigError(f"job {run_dir.name}: {error}") from error
    return SweepJob(overrides=overrides, config=config, run_dir=run_dir)


def _check_folders(jobs: list[SweepJob]) -> None:
    seen: dict[Path, SweepJob] = {}
    for job in jobs:
        other = seen.setdefault(job.run_dir, job)
        if other is not job:
            raise ConfigError(
                f"two jobs of the sweep would share the folder {job.name}: "
                f"{' '.join(other.overrides)}, and {' '.join(job.overrides)}. "
                "Leave out what is listed twice."
            )
