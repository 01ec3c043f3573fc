"""Before a plain run starts: is its folder free, done, to be continued, or another run's?"""

import dataclasses
import sys
from pathlib import Path
from typing import Any, ClassVar

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from sft_app.common.errors import ConfigError
from sft_app.config.hydra_callback import typed_without_hydra
from sft_app.config.locations import ADAPTER_CONFIG
from sft_app.config.one_sentence import fails_closed
from sft_app.config.schema.adapter import AdapterMethod
from sft_app.config.schema.app import AppConfig
from sft_app.config.validation.check_secrets import check_folder_name
from sft_app.launch.job.job_errors import JobFailed, JobInterrupted
from sft_app.launch.job.job_lock import is_being_run
from sft_app.launch.job.job_state import Found, JobState, look_at, set_aside
from sft_app.launch.job.worker_processes import world_size
from sft_app.launch.nodes.nodes import help_node_0
from sft_app.launch.nodes.slurm_rendezvous import slurm_rendezvous
from sft_app.launch.sweep.budget import apply_budget
from sft_app.records.identity import compare, identity_of, read_identity
from sft_app.records.run_files import CHECKPOINTS

MOST_DIFFERENCES = 6
"""As many are listed; the rest is counted."""


class PrepareRun(Callback):
    """Named in conf/config.yaml below hydra.callbacks.

    Hydra calls it before it makes or changes any file, so that a command that is refused leaves the
    run that stands there as it is.
    """

    wanted: ClassVar[bool] = False
    """Set by the command that trains; others compose the same configuration."""

    @fails_closed
    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Decide how the run starts, or end the command."""
        if not PrepareRun.wanted:
            return
        try:
            typed = as_started(typed_without_hydra(config))
            if typed.launch.node_rank:
                sys.exit(help_node_0(typed))
            check_folder_name("hydra.run.dir", Path(config.hydra.run.dir))
            is_left_to_do = prepare_run(typed, Path(config.hydra.run.dir))
        except OSError as error:  # as of a name that no file system takes
            raise _cannot_be_made(Path(config.hydra.run.dir), error) from error
        except JobFailed as error:
            print(f"sft-train: {error}", file=sys.stderr)
            sys.exit(error.exit_code)
        except JobInterrupted as interruption:
            sys.exit(interruption.exit_code)
        if not is_left_to_do:
            sys.exit(0)
        _make(Path(config.hydra.run.dir))


def _make(run_dir: Path) -> None:
    """Make the folder now: Hydra would end in a traceback where it cannot be made."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_be_made(run_dir, error) from error


def _cannot_be_made(run_dir: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"hydra.run.dir={run_dir} cannot be made or used ({error.strerror}): name a folder that "
        "you may write to, or give the run a run.name."
    )


def as_started(config: AppConfig) -> AppConfig:
    """Return the configuration with the batch and the steps of sweep.budget, which one run keeps
    to as well, and below srun with this node's rank and the meeting point.

    Raises ConfigError where the budget cannot be kept.
    """
    return dataclasses.replace(apply_budget(config), launch=slurm_rendezvous(config.launch))


def prepare_run(config: AppConfig, run_dir: Path) -> bool:
    """Return whether there is anything to do; raises ConfigError where that is not clear.

    A run that is there is continued, or done, when it was begun with the same settings and files.
    With trainer.resume_from_checkpoint=never it is kept aside, and another one started.
    """
    if is_being_run(run_dir):
        raise ConfigError(
            f"{run_dir} is being worked on by another process. Wait for it, or choose another "
            "run.name."
        )
    setting = config.trainer.resume_from_checkpoint
    found = look_at(run_dir, config)
    if setting in (None, "never"):
        if found.state is not JobState.new:
            print(f"The run that stood in {run_dir} is kept in {set_aside(run_dir)}.", flush=True)
        return True
    check_adapter(config, run_dir if setting == "auto" else Path(str(setting)).expanduser())
    if setting != "auto":
        _check_checkpoint(config, Path(str(setting)).expanduser(), run_dir, found)
        return True
    if found.state is JobState.changed and found.has_work and not config.trainer.resume_anyway:
        raise ConfigError(_refusal(run_dir, found.differences))
    for note in found.notes:
        print(f"The run in {run_dir}: {note}.", flush=True)
    if found.state is JobState.done:
        print(f"Nothing is left to do: the run in {run_dir} is complete.", flush=True)
        return False
    if found.state is JobState.changed and found.has_work:
        print(f"Going on anyway: {_listed(found.differences)}.", flush=True)
    return True


def _check_checkpoint(config: AppConfig, place: Path, run_dir: Path, found: Found) -> None:
    """Raise ConfigError when a named checkpoint cannot be what this run goes on from."""
    inside = place.absolute().is_relative_to(run_dir.absolute())
    if found.has_work and not inside:
        raise ConfigError(
            f"{run_dir} holds a run already, and trainer.resume_from_checkpoint={place} is "
            "another's: give this one a run.name of its own."
        )
    check_same_training(config, place)


def check_same_training(config: AppConfig, place: Path) -> None:
    """Raise ConfigError when a named checkpoint belongs to another training than is asked for."""
    folders = (place, place.parent, place.parent.parent)
    before = next((i for folder in folders if (i := read_identity(folder)) is not None), None)
    if config.trainer.resume_anyway:
        return
    if before is None:
        raise ConfigError(
            f"trainer.resume_from_checkpoint={place} has no identity.json, so that it cannot be "
            "told from which model, data and settings it was made: go on with "
            "trainer.resume_anyway=true if you know that."
        )
    differences = compare(before, identity_of(config, world_size(config.launch))).differences
    if differences:
        raise ConfigError(
            f"trainer.resume_from_checkpoint={place} is of a run that differs: "
            f"{_listed(differences)}. Leave it out to start at the first step, or go on all the "
            "same (trainer.resume_anyway=true)."
        )


def check_adapter(config: AppConfig, place: Path) -> None:
    """Raise ConfigError where a LoRA checkpoint is to go on as full tuning."""
    if config.adapter.method is not AdapterMethod.none:
        return
    patterns = ("", "checkpoint-*/", f"{CHECKPOINTS}/checkpoint-*/")
    if any(any(place.glob(f"{pattern}{ADAPTER_CONFIG}")) for pattern in patterns):
        raise ConfigError(
            f"{place} holds a LoRA checkpoint, an adapter and no whole model, and adapter=none "
            "trains all weights: add adapter=lora (or qlora, as it was) to go on with it, or start "
            "another run (run.name, or trainer.resume_from_checkpoint=never)."
        )


def _refusal(run_dir: Path, differences: tuple[str, ...]) -> str:
    return (
        f"{run_dir} holds a run that differs: {_listed(differences)}. Choose another run.name, "
        "start anew beside it (trainer.resume_from_checkpoint=never), or go on all the same "
        "(trainer.resume_anyway=true)."
    )


def _listed(differences: tuple[str, ...]) -> str:
    listed = "; ".join(differences[:MOST_DIFFERENCES])
    more = len(differences) - MOST_DIFFERENCES
    return f"{listed}; and {more} more" if more > 0 else listed
