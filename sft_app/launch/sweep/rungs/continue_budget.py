"""A cell that begins where the finished run of a smaller budget has ended.

With a learning rate that does not depend on the number of steps the smaller run is the beginning of
the larger one, step for step: warm-up and a constant rate, as before the cooldown of the schedules
of Hägele et al. 2024 (arXiv:2405.18392, section 3), whose point it is that one run serves all
lengths.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from sft_app.common.errors import ConfigError
from sft_app.config.schema.app import AppConfig
from sft_app.config.schema.trainer import SaveStrategy
from sft_app.launch.job.worker_processes import world_size
from sft_app.records import manifest
from sft_app.records.identity import Identity, compare, identity_of, read_identity
from sft_app.records.result import Evaluation, RunResult, Status, read_result
from sft_app.records.run_files import CHECKPOINTS

STEPS = "trainer.max_steps"
SCHEDULES = ("constant", "constant_with_warmup")
"""Whose learning rate at a step does not depend on how many there are to be."""


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """The finished run of the same settings with fewer steps."""

    run_dir: Path
    result: RunResult
    checkpoint: Path | None
    """Of its last step; None: it is not there any more, or damaged."""

    @property
    def before(self) -> Evaluation | None:
        """What was measured before the first step, which is the same for both."""
        return self.result.evaluation_before


def check_can_continue(config: AppConfig) -> None:
    """Raise ConfigError where going on from a smaller budget would be another training."""
    trainer, sweep = config.trainer, config.sweep
    if not sweep.continue_budgets:
        if sweep.rungs > 1:
            raise ConfigError(
                f"sweep.rungs={sweep.rungs} needs sweep.continue_budgets=true: jobs that are kept "
                "go on from their checkpoints."
            )
        return
    if trainer.max_steps < 1:
        raise ConfigError(
            "sweep.continue_budgets=true needs a number of steps that is known before: "
            "sweep.budget=tokens with sweep.tokens=..., or sweep.budget=steps."
        )
    in_whole_steps = trainer.warmup_steps == int(trainer.warmup_steps)
    if trainer.lr_scheduler_type not in SCHEDULES or not in_whole_steps:
        raise ConfigError(
            "sweep.continue_budgets=true: with trainer.lr_scheduler_type="
            f"{trainer.lr_scheduler_type} trainer.warmup_steps={trainer.warmup_steps:g} the "
            "learning rate of a step depends on how many there are, so that no run is the "
            "beginning of a longer one: set trainer.lr_scheduler_type=constant_with_warmup "
            "trainer.warmup_steps=10, or another whole number."
        )
    if trainer.save_strategy is SaveStrategy.no:
        raise ConfigError(
            "sweep.continue_budgets=true goes on from checkpoints, and trainer.save_strategy=no "
            "writes none: set trainer.save_strategy=steps, which saves the last step as well."
        )
    if trainer.load_best_model_at_end or trainer.early_stopping_patience is not None:
        raise ConfigError(
            "sweep.continue_budgets=true goes on from the last step: leave out "
            "trainer.load_best_model_at_end and trainer.early_stopping_patience."
        )


def find_beginning(run_dir: Path, config: AppConfig) -> Beginning | None:
    """Return, of the runs beside `run_dir`, the longest one that this job only has to prolong."""
    own = identity_of(config, world_size(config.launch))
    found: list[tuple[int, Path, RunResult]] = []
    for other in sorted(run_dir.parent.iterdir()):
        identity = read_identity(other)
        if other == run_dir or identity is None or not _differs_in_steps_only(identity, own):
            continue
        try:
            result = read_result(other)
        except ValueError:
            continue  # being written, or never begun
        steps = int(identity.settings.get(STEPS, -1))
        if result.status is Status.completed and 0 < steps < config.trainer.max_steps:
            found.append((steps, other, result))
    if not found:
        return None
    steps, other, result = max(found, key=lambda entry: entry[0])
    return Beginning(run_dir=other, result=result, checkpoint=_whole_checkpoint(other, steps))


def go_on_from(beginning: Beginning | None, run_dir: Path, config: AppConfig) -> AppConfig:
    """Return the configuration with the checkpoint to begin with, unless the job has its own."""
    if beginning is None or any((run_dir / CHECKPOINTS).glob("checkpoint-*")):
        return config
    if beginning.checkpoint is None:
        print(
            f"{run_dir.name}: the last checkpoint of {beginning.run_dir.name} is not whole: this "
            "job trains from the first step.",
            flush=True,
        )
        return config
    trainer = dataclasses.replace(
        config.trainer, resume_from_checkpoint=str(beginning.checkpoint.absolute())
    )
    return dataclasses.replace(config, trainer=trainer)


def _differs_in_steps_only(other: Identity, own: Identity) -> bool:
    comparison = compare(_without_steps(other), _without_steps(own), completed=True)
    return not comparison.differences


def _without_steps(identity: Identity) -> Identity:
    settings = {key: value for key, value in identity.settings.items() if key != STEPS}
    return dataclasses.replace(identity, settings=settings)


def _whole_checkpoint(run_dir: Path, steps: int) -> Path | None:
    checkpoint = run_dir / CHECKPOINTS / f"checkpoint-{steps}"
    try:
        return checkpoint if manifest.damage_of(checkpoint) is None else None
    except OSError:
        return None
