"""What to change when memory has run out: each remedy, with what a process would need then."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from sft_app.common import ranks
from sft_app.common.errors import ConfigError
from sft_app.config.schema.adapter import AdapterMethod
from sft_app.config.schema.app import AppConfig
from sft_app.config.schema.trainer import Parallelism
from sft_app.config.validation.check_trainer import check_trainer_support
from sft_app.loader.rope.rope_plan import planned_config
from sft_app.training.activation_memory.check_recomputation import check_recomputation
from sft_app.training.activation_memory.tiling_plan import tile_tokens
from sft_app.training.estimates.memory_estimate import estimate_memory
from sft_app.training.loss.chunked_cross_entropy import chunk_bytes
from sft_app.training.model_plan import ModelPlans
from sft_app.training.parallel.verify_context_parallel import check_context_parallel
from sft_app.training.precision import plan_precision

WORTH_NAMING = 0.97
"""Of what is needed now: what saves less than the rest is no remedy."""


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """One change of the settings, and what it saves."""

    overrides: str
    """As they are typed; an optimizer step keeps its tokens."""
    needed: int
    """Bytes that a process is estimated to need with it."""


def remedies(config: AppConfig, plans: ModelPlans, device: torch.device) -> list[Remedy]:
    """Return what takes less memory than `config`, in order of effect, each for itself."""
    now = bytes_needed(config, plans, device, ranks.world_size())
    found = []
    for overrides, changed, processes in _candidates(config, device):
        try:
            check_trainer_support(changed)
            if changed.trainer.gradient_checkpointing:
                check_recomputation(plans.pretrained)
            size = changed.trainer.context_parallel_size
            if size > config.trainer.context_parallel_size:
                check_context_parallel(plans.pretrained, plans.attention, size)
            needed = bytes_needed(changed, plans, device, processes)
        except ConfigError:  # not for this model, or not with the other settings
            continue
        if needed < WORTH_NAMING * now:
            found.append(Remedy(overrides=overrides, needed=needed))
    return sorted(found, key=lambda remedy: remedy.needed)


def bytes_needed(config: AppConfig, plans: ModelPlans, device: torch.device, processes: int) -> int:
    """Return the estimate for one of so many processes, with the model of `plans`."""
    planned = planned_config(plans.pretrained, plans.rope)
    precision = plan_precision(config, plans.pretrained, plans.weights, device)
    shards, replicas = config.trainer.tensor_parallel_size, 1
    if config.trainer.parallelism is Parallelism.fsdp:
        shards = max(1, processes // config.trainer.fsdp_replicas)
    elif shards == 1:
        replicas = processes
    return estimate_memory(
        planned,
        config.trainer,
        config.adapter,
        context_length=config.context_length,
        dtype=precision.parameters,
        compute_dtype=precision.compute,
        chunk_bytes=chunk_bytes(device),
        num_shards=shards,
        num_replicas=replicas,
        tile_tokens=tile_tokens(device),
    ).total


def _candidates(config: AppConfig, device: torch.device) -> Iterator[tuple[str, AppConfig, int]]:
    """Yield overrides, the configuration that they make of `config`, and its processes."""
    trainer, processes = config.trainer, ranks.world_size()

    def change(processes: int = processes, **values: Any) -> tuple[str, AppConfig, int]:
        changed = dataclasses.replace(config, trainer=dataclasses.replace(trainer, **values))
        words = [f"trainer.{key}={_as_typed(value)}" for key, value in values.items()]
        if processes > ranks.world_size():
            words.append(f"launch.nproc_per_node={processes}")
            launch = dataclasses.replace(config.launch, nproc_per_node=processes)
            changed = dataclasses.replace(changed, launch=launch)
        return " ".join(words), changed, processes

    rows, steps = trainer.per_device_train_batch_size, trainer.gradient_accumulation_steps
    if not trainer.gradient_checkpointing:
        yield change(gradient_checkpointing=True)
    elif device.type == "cuda" and not trainer.gradient_checkpointing_kwargs.get("offload"):
        yield change(gradient_checkpointing_kwargs={"offload": True})
    if rows > 1:
        yield change(per_device_train_batch_size=1, gradient_accumulation_steps=rows * steps)
    if config.adapter.method is AdapterMethod.none:
        adapter = dataclasses.replace(config.adapter, method=AdapterMethod.lora)
        yield "adapter=lora", dataclasses.replace(config, adapter=adapter), processes
    if trainer.parallelism is not Parallelism.fsdp and trainer.tensor_parallel_size == 1:
        yield change(max(2, processes), parallelism=Parallelism.fsdp)
    size = 2 * trainer.context_parallel_size
    if trainer.tensor_parallel_size == 1:
        share = {"context_parallel_size": size}
        if size <= processes:  # fewer groups, which then accumulate more
            share["gradient_accumulation_steps"] = 2 * steps
        yield change(max(size, processes), **share)


def _as_typed(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_as_typed(item)}" for key, item in value.items()) + "}"
    return str(value).lower()
