"""What a run would need on GPUs that are not here: memory, time, and what would save most."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from transformers import PretrainedConfig

from sft_app.common.datasheets import BY_KEY, Datasheet
from sft_app.common.processes import is_installed
from sft_app.config.schema.adapter import AdapterMethod
from sft_app.config.schema.app import AppConfig
from sft_app.config.schema.model import Dtype
from sft_app.config.schema.trainer import Parallelism
from sft_app.training.activation_memory.check_recomputation import can_recompute
from sft_app.training.activation_memory.tiling_plan import TILE_TOKENS_CUDA
from sft_app.training.estimates.activations import Activations
from sft_app.training.estimates.memory_estimate import MemoryEstimate, MemoryEstimator
from sft_app.training.loss.chunked_cross_entropy import CHUNK_BYTES_CUDA
from sft_app.training.metrics.flops import flops_of_batch

STEP_OF_LENGTHS = 256
LONGEST = 2**24
"""Tokens: beyond it nobody looks."""


@dataclass(frozen=True, kw_only=True)
class Knob:
    """One override that is not set, and what it would do."""

    override: str
    total: int
    """Bytes on each GPU at the context that is asked for."""
    longest: int
    """Tokens of a row that would fit."""


@dataclass(frozen=True, kw_only=True)
class HardwarePlan:
    """What was asked for, against the datasheet of the GPUs."""

    gpu: str
    gpus: int
    gpu_memory: int
    """Bytes, by the datasheet."""
    parameters: str
    compute: str
    memory: MemoryEstimate
    """On each GPU."""
    fits: bool
    longest: int
    """Tokens of a row that fit; 0: not even the shortest."""
    utilisation: float
    seconds: float
    """Wall time of the training steps."""
    gpu_hours: float
    knobs: tuple[Knob, ...]
    """The most useful first."""

    def as_dict(self) -> dict[str, Any]:
        """Return what `sft-plan --json` prints as "hardware"."""
        return {**dataclasses.asdict(self), "memory": self.memory.as_dict()}

    def __str__(self) -> str:
        """Say it in lines, as sft-plan prints them."""
        verdict = "it fits" if self.fits else "it does not fit"
        lines = [
            f"hardware        {self.gpus} x {self.gpu} by its datasheet, nothing of it measured: "
            f"parameters {self.parameters}, computed in {self.compute}",
            str(self.memory),
            f"fits            {verdict}: {_gb(self.memory.total)} of {_gb(self.gpu_memory)} on "
            f"each GPU; rows of up to {self.longest:,} tokens do",
            f"time            about {timedelta(seconds=round(self.seconds))}, "
            f"{self.gpu_hours:.2f} GPU-hours, at {self.utilisation:.0%} of the datasheet's rate",
        ]
        for knob in self.knobs:
            less = self.memory.total - knob.total
            change = f"{_gb(abs(less))} {'less' if less >= 0 else 'more'}"
            lines.append(f"knob            {knob.override}: {change}, rows of {knob.longest:,}")
        return "\n".join(lines)


def plan_hardware(
    config: AppConfig,
    pretrained: PretrainedConfig,
    *,
    documents: Sequence[int],
    num_rows: int,
    supervised_share: float,
) -> HardwarePlan:
    """Reckon with `config.plan`; nothing asks this machine for a GPU.

    One pass over the data has `documents` (tokens of each) in `num_rows` rows.
    """
    assert config.plan.gpu is not None
    sheet = BY_KEY[config.plan.gpu]
    estimator = _estimator(config, pretrained)
    memory = estimator.at(config.context_length)
    passes = _share_of_pass(config, num_rows)
    shape = estimator.shape()
    supervised = int(sum(documents) * supervised_share)
    flops = flops_of_batch(shape, documents, supervised) * passes
    gpu_seconds = flops / (config.plan.utilisation * sheet.tflops * 1e12)
    parameters, compute = _dtypes(config)
    return HardwarePlan(
        gpu=sheet.name,
        gpus=config.plan.gpus,
        gpu_memory=sheet.memory,
        parameters=_name(parameters),
        compute=_name(compute),
        memory=memory,
        fits=memory.total <= sheet.memory,
        longest=longest_context(estimator, sheet),
        utilisation=config.plan.utilisation,
        seconds=gpu_seconds / config.plan.gpus,
        gpu_hours=gpu_seconds / 3600,
        knobs=_knobs(config, pretrained, sheet, estimator.kept),
    )


def longest_context(estimator: MemoryEstimator, sheet: Datasheet) -> int:
    """Return the longest row, in steps of 256 tokens, whose estimate fits; 0 where none does."""
    fit, too_long = 0, LONGEST // STEP_OF_LENGTHS + 1
    while too_long - fit > 1:
        middle = (fit + too_long) // 2
        if estimator.at(middle * STEP_OF_LENGTHS).total <= sheet.memory:
            fit = middle
        else:
            too_long = middle
    return fit * STEP_OF_LENGTHS


def _knobs(
    config: AppConfig, pretrained: PretrainedConfig, sheet: Datasheet, kept: Activations
) -> tuple[Knob, ...]:
    knobs = []
    for override, changed in _changes(config, pretrained):
        same = changed.adapter == config.adapter
        estimator = _estimator(changed, pretrained, kept if same else None)
        total = estimator.at(config.context_length).total
        longest = longest_context(estimator, sheet)
        knobs.append(Knob(override=override, total=total, longest=longest))
    return tuple(sorted(knobs, key=lambda knob: (-knob.longest, knob.total)))


def _changes(config: AppConfig, pretrained: PretrainedConfig) -> list[tuple[str, AppConfig]]:
    trainer, gpus = config.trainer, config.plan.gpus
    changes: list[tuple[str, AppConfig]] = []

    def change(override: str, **values: Any) -> None:
        changed = dataclasses.replace(trainer, **values)
        changes.append((override, dataclasses.replace(config, trainer=changed)))

    recomputing, words = trainer.gradient_checkpointing, "trainer.gradient_checkpointing=true"
    settings = trainer.gradient_checkpointing_kwargs
    possible = can_recompute(pretrained)
    if possible and not recomputing:
        change(words, gradient_checkpointing=True)
    if possible and not settings.get("offload"):
        offload = "+trainer.gradient_checkpointing_kwargs.offload=true"
        change(
            offload if recomputing else f"{words} {offload}",
            gradient_checkpointing=True,
            gradient_checkpointing_kwargs={**settings, "offload": True},
        )
    if config.adapter.method is AdapterMethod.none and is_installed("peft"):
        adapter = dataclasses.replace(config.adapter, method=AdapterMethod.lora)
        changes.append(("adapter=lora", dataclasses.replace(config, adapter=adapter)))
    if gpus > 1 and trainer.parallelism is not Parallelism.fsdp:
        change("trainer.parallelism=fsdp", parallelism=Parallelism.fsdp)
    heads = getattr(pretrained.get_text_config(decoder=True), "num_attention_heads", None)
    if gpus > 1 and trainer.context_parallel_size == 1 and trainer.tensor_parallel_size == 1:
        size = math.gcd(gpus, heads) if isinstance(heads, int) else 1
        if size > 1:
            change(f"trainer.context_parallel_size={size}", context_parallel_size=size)
    if trainer.parallelism is Parallelism.fsdp:
        change("trainer.optim=adamw_torch_8bit", optim="adamw_torch_8bit")
    elif "8bit" not in trainer.optim:
        change("trainer.optim=adamw_8bit", optim="adamw_8bit")
    return changes


def _estimator(
    config: AppConfig, pretrained: PretrainedConfig, kept: Activations | None = None
) -> MemoryEstimator:
    parameters, compute = _dtypes(config)
    trainer, gpus = config.trainer, config.plan.gpus
    shards = trainer.tensor_parallel_size
    if trainer.parallelism is Parallelism.fsdp:
        shards = max(1, gpus // trainer.fsdp_replicas)
    return MemoryEstimator(
        pretrained,
        trainer,
        config.adapter,
        dtype=parameters,
        compute_dtype=compute,
        chunk_bytes=CHUNK_BYTES_CUDA,
        num_shards=shards,
        num_replicas=gpus if shards == 1 else 1,
        tile_tokens=TILE_TOKENS_CUDA,
        kept=kept,
    )


def _dtypes(config: AppConfig) -> tuple[torch.dtype, torch.dtype]:
    """Return those of parameters and of products, as a GPU with bfloat16 would have them."""
    parameters = torch.float32
    if config.model.dtype is not Dtype.auto:
        parameters = getattr(torch, config.model.dtype.value)
    elif config.adapter.method is not AdapterMethod.none:
        parameters = torch.bfloat16
    if config.trainer.fp16:
        return parameters, torch.float16
    return parameters, parameters if config.trainer.bf16 is False else torch.bfloat16


def _share_of_pass(config: AppConfig, rows_of_pass: int) -> float:
    """Return how many passes over the data are trained, each row counted once."""
    trainer = config.trainer
    if trainer.max_steps <= 0:
        return trainer.num_train_epochs
    groups = config.plan.gpus // (trainer.context_parallel_size * trainer.tensor_parallel_size)
    batch = trainer.per_device_train_batch_size * trainer.gradient_accumulation_steps
    return trainer.max_steps * batch * max(1, groups) / rows_of_pass


def _gb(number: int) -> str:
    return f"{number / 1e9:,.1f} GB"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
