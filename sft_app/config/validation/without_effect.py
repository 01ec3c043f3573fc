"""Settings that were given, and change nothing because of another one: said, not refused.

In a sweep a setting may have an effect in some jobs only.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sft_app.config.schema.adapter import AdapterMethod
from sft_app.config.schema.app import AppConfig
from sft_app.config.schema.data import Overlong
from sft_app.config.schema.evaluation import TASK_NAMES, EvaluationConfig, measures_anything
from sft_app.config.schema.rope import RopeMethod
from sft_app.config.schema.sweep import Budget, SweepConfig
from sft_app.config.schema.trainer import OnLossSpike, SaveStrategy, TrainerConfig
from sft_app.config.validation.check_eval_strategy import FOLLOWING_LOSS

MEASURED_BY_THE_APP = (
    "per_device_eval_batch_size", "eval_accumulation_steps", "eval_do_concat_batches",
    "eval_use_gather_object", "prediction_loss_only", "include_for_metrics", "batch_eval_metrics",
    "bf16_full_eval", "fp16_full_eval",
)  # fmt: skip
"""Names in trainer.extra that are of transformers' own evaluation, which is not used."""
WITHOUT_FACTOR = (RopeMethod.none, RopeMethod.abf, RopeMethod.extend_positions)
WITHOUT_MOMENTS = ("sgd", "adafactor", "adagrad", "rmsprop")
"""Optimizers that the settings of Adam are not handed to."""
ADAM = ("adam_beta1", "adam_beta2", "adam_epsilon")
OF_MEASURING = ("lengths", "documents", "stride", "longppl", "max_times_context", "scoring")
OF_A_SWEEP = ("name", "rungs", "continue_budgets", "skip_longer_after_oom")


def settings_without_effect(config: AppConfig) -> list[str]:
    """Return a sentence for each setting that differs from its default, and changes nothing."""
    return [
        *_of_the_model(config),
        *_of_training(config.trainer),
        *_of_evaluation(config.evaluation),
        *_of_data(config),
        *_of_budgets(config.sweep),
    ]


def settings_of_a_sweep(config: AppConfig) -> list[str]:
    """Return a sentence for each setting that changes nothing in a run that is no sweep's."""
    return _given(config.sweep, "sweep", OF_A_SWEEP, "a single run, without --multirun")


def _of_the_model(config: AppConfig) -> list[str]:
    rope = config.rope
    notes = []
    if rope.method in WITHOUT_FACTOR:
        reason = f"rope.method={rope.method}"
        notes += _given(rope, "rope", ("factor", "factor_rounding"), reason)
    elif rope.factor is not None:
        notes += _given(rope, "rope", ("factor_rounding",), f"rope.factor={rope.factor:g}")
    if Path(config.model.name_or_path).expanduser().is_dir():
        reason = "a model.name_or_path that is a folder"
        notes += _given(config.model, "model", ("revision",), reason)
    if config.adapter.method is AdapterMethod.none:
        names = ("rank", "alpha", "dropout", "target_modules", "rank_stabilised")
        notes += _given(config.adapter, "adapter", names, "adapter.method=none")
    if config.launch.nnodes == 1:
        unused = ["rdzv_endpoint", "rdzv_timeout_seconds"]
        notes += _given(config.launch, "launch", unused, "launch.nnodes=1")
    if config.plan.gpu is None:
        notes += _given(config.plan, "plan", ("gpus", "utilisation"), "plan.gpu=null")
    return notes


def _of_training(trainer: TrainerConfig) -> list[str]:
    notes = []
    if trainer.save_strategy is not SaveStrategy.steps:
        unused = ["save_steps"]
        if trainer.save_strategy is SaveStrategy.no:
            unused.append("save_total_limit")
        reason = f"trainer.save_strategy={trainer.save_strategy}"
        notes += _given(trainer, "trainer", unused, reason)
    if trainer.on_loss_spike is not OnLossSpike.rewind:
        unused = ["max_rewinds"]
        if trainer.on_loss_spike is OnLossSpike.ignore:
            unused += ["loss_spike_threshold", "loss_spike_window"]
        reason = f"trainer.on_loss_spike={trainer.on_loss_spike}"
        notes += _given(trainer, "trainer", unused, reason)
    notes += [
        f"trainer.extra.{name}={trainer.extra[name]} has no effect: the application measures "
        "held-out loss itself (evaluation.batch_size)."
        for name in MEASURED_BY_THE_APP
        if name in trainer.extra
    ]
    if trainer.optim == "muon" and trainer.extra.get("optim_args"):
        notes.append("trainer.extra.optim_args has no effect with trainer.optim=muon.")
    if trainer.max_steps > 0:
        reason = f"trainer.max_steps={trainer.max_steps}, which ends the training"
        notes += _given(trainer, "trainer", ("num_train_epochs",), reason)
    if trainer.lr_scheduler_type == "constant":
        reason = "trainer.lr_scheduler_type=constant (constant_with_warmup has one)"
        notes += _given(trainer, "trainer", ("warmup_steps",), reason)
    if trainer.lr_scheduler_type in FOLLOWING_LOSS:
        reason = f"trainer.lr_scheduler_type={trainer.lr_scheduler_type}, which has no warm-up"
        notes += _given(trainer, "trainer", ("warmup_steps",), reason)
    if trainer.optim in WITHOUT_MOMENTS:
        notes += _given(trainer, "trainer", ADAM, f"trainer.optim={trainer.optim}")
    return notes


def _of_evaluation(evaluation: EvaluationConfig) -> list[str]:
    if not measures_anything(evaluation):
        reason = "evaluation.before=false and evaluation.after=false"
        return _given(evaluation, "evaluation", OF_MEASURING, reason)
    notes = []
    if evaluation.stride is None:
        notes += _given(evaluation, "evaluation", ("max_windows",), "evaluation.stride=null")
    if not any(task in TASK_NAMES for task in evaluation.tasks):
        reason = "none of the application's own tasks in evaluation.tasks"
        notes += _given(evaluation, "evaluation", ("scoring", "samples"), reason)
    return notes


def _of_data(config: AppConfig) -> list[str]:
    data = config.data
    notes = []
    if data.eval is not None:
        notes += _given(data, "data", ("eval_examples",), "data.eval")
    if data.overlong is not Overlong.split:
        reason = f"data.overlong={data.overlong.value}"
        notes += _given(data, "data", ("overlong_question",), reason)
    return notes


def _of_budgets(sweep: SweepConfig) -> list[str]:
    reason = f"sweep.budget={sweep.budget}"
    notes = []
    if sweep.budget is not Budget.tokens:
        notes += _given(sweep, "sweep", ("tokens",), reason)
    if sweep.budget is not Budget.supervised:
        notes += _given(sweep, "sweep", ("supervised_tokens",), reason)
    if sweep.budget is Budget.own:
        notes += _given(sweep, "sweep", ("tokens_per_step",), reason)
    if sweep.rungs == 1:
        notes += _given(sweep, "sweep", ("keep_one_in",), "sweep.rungs=1")
    return notes


def without_effect_anywhere(configs: Sequence[AppConfig]) -> list[str]:
    """Return the sentences that hold in every job of a sweep."""
    notes = [settings_without_effect(config) for config in configs]
    return [note for note in notes[0] if all(note in others for others in notes)]


def _given(settings: Any, group: str, names: Iterable[str], reason: str) -> list[str]:
    defaults = {field.name: field for field in dataclasses.fields(settings)}
    return [
        f"{group}.{name}={value} has no effect with {reason}."
        for name in names
        if (value := getattr(settings, name)) != _default(defaults[name])
    ]


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default
