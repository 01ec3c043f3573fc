"""Settings that were given, and change nothing because of another one: said, not refused.

In a sweep a setting may have an effect in some jobs only.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sft_app.config.schema.adapter import AdapterMethod
from sft_app.config.schema.app import AppConfig
from sft_app.config.schema.rope import RopeMethod
from sft_app.config.schema.sweep import Budget
from sft_app.config.schema.trainer import OnLossSpike, SaveStrategy

WITHOUT_FACTOR = (RopeMethod.none, RopeMethod.abf, RopeMethod.extend_positions)


def settings_without_effect(config: AppConfig) -> list[str]:
    """Return a sentence for each setting that differs from its default, and changes nothing."""
    rope, trainer, data = config.rope, config.trainer, config.data
    notes = []
    if rope.method in WITHOUT_FACTOR:
        notes += _given(rope, "rope", ("factor",), f"rope.method={rope.method}")
    if Path(config.model.name_or_path).expanduser().is_dir():
        reason = "a model.name_or_path that is a folder"
        notes += _given(config.model, "model", ("revision",), reason)
    if config.adapter.method is AdapterMethod.none:
        names = ("rank", "alpha", "dropout", "target_modules", "rank_stabilised")
        notes += _given(config.adapter, "adapter", names, "adapter.method=none")
    if trainer.save_strategy is not SaveStrategy.steps:
        reason = f"trainer.save_strategy={trainer.save_strategy}"
        notes += _given(trainer, "trainer", ("save_steps",), reason)
    if trainer.on_loss_spike is not OnLossSpike.rewind:
        unused = ["max_rewinds"]
        if trainer.on_loss_spike is OnLossSpike.ignore:
            unused += ["loss_spike_threshold", "loss_spike_window"]
        reason = f"trainer.on_loss_spike={trainer.on_loss_spike}"
        notes += _given(trainer, "trainer", unused, reason)
    if trainer.max_steps > 0:
        reason = f"trainer.max_steps={trainer.max_steps}, which ends the training"
        notes += _given(trainer, "trainer", ("num_train_epochs",), reason)
    if config.launch.nnodes == 1:
        unused = ["rdzv_endpoint", "rdzv_timeout_seconds"]
        notes += _given(config.launch, "launch", unused, "launch.nnodes=1")
    if data.eval is not None:
        notes += _given(data, "data", ("eval_examples",), "data.eval")
    if config.sweep.budget is not Budget.tokens:
        reason = f"sweep.budget={config.sweep.budget}"
        notes += _given(config.sweep, "sweep", ("tokens",), reason)
    return notes


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
