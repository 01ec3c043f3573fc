"""Held-out loss while training goes: what follows from it needs it, and something to measure."""

from sft_app.common.errors import ConfigError
from sft_app.config.schema.app import AppConfig
from sft_app.config.schema.trainer import EvalStrategy, SaveStrategy

FOLLOWING_LOSS = ("reduce_lr_on_plateau", "greedy")
"""Schedules of the learning rate that have no rate for a step, and no warm-up."""


def check_eval_strategy(config: AppConfig) -> None:
    """Raise ConfigError for the first setting that goes by held-out loss and cannot have it."""
    trainer = config.trainer
    if trainer.eval_strategy is EvalStrategy.no:
        for name, value in (
            ("load_best_model_at_end", trainer.load_best_model_at_end or None),
            ("early_stopping_patience", trainer.early_stopping_patience),
            ("eval_steps", trainer.eval_steps),
        ):
            if value is not None:
                raise ConfigError(
                    f"trainer.{name} goes by the held-out loss while training goes, and "
                    "trainer.eval_strategy=no measures none: set trainer.eval_strategy=steps, or "
                    "epoch."
                )
        if trainer.lr_scheduler_type in FOLLOWING_LOSS:
            raise ConfigError(
                f"trainer.lr_scheduler_type={trainer.lr_scheduler_type} follows the held-out loss "
                "while training goes, and trainer.eval_strategy=no measures none: set "
                "trainer.eval_strategy=steps, or trainer.lr_scheduler_type=cosine."
            )
        return
    if config.data.eval is None and config.data.eval_examples == 0:
        raise ConfigError(
            f"trainer.eval_strategy={trainer.eval_strategy} needs held-out conversations, and "
            "data.eval_examples=0 with no data.eval leaves none: set data.eval=/some/file, or "
            "data.eval_examples=200."
        )
    if trainer.eval_strategy is EvalStrategy.epoch and trainer.eval_steps is not None:
        raise ConfigError(
            f"trainer.eval_steps={trainer.eval_steps:g} has no effect with "
            "trainer.eval_strategy=epoch: leave it out, or set trainer.eval_strategy=steps."
        )
    if trainer.load_best_model_at_end and trainer.save_strategy is SaveStrategy.no:
        raise ConfigError(
            "trainer.load_best_model_at_end loads a checkpoint, and trainer.save_strategy=no "
            "writes none: leave trainer.save_strategy out."
        )
