"""Training settings, with the names and meaning of `transformers.TrainingArguments`."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class SaveStrategy(StrEnum):
    no = "no"
    steps = "steps"
    epoch = "epoch"


class Parallelism(StrEnum):
    ddp = "ddp"
    fsdp = "fsdp"


class LossHead(StrEnum):
    """auto: liger on a GPU where liger-kernel is installed, else chunked; model: the model's own
    loss, which holds all logits."""

    auto = "auto"
    chunked = "chunked"
    liger = "liger"
    model = "model"


@dataclass(kw_only=True)
class TrainerConfig:
    num_train_epochs: float = 1.0
    max_steps: int = -1
    """Optimizer steps; -1: as many as `num_train_epochs` takes."""
    per_device_train_batch_size: int = 1
    """Rows of `context_length` tokens when packing, examples otherwise."""
    gradient_accumulation_steps: int = 1
    learning_rate: float = 2e-5
    lr_scheduler_type: str = "cosine"
    lr_scheduler_kwargs: dict[str, Any] = field(default_factory=dict)
    warmup_steps: float = 0.03
    """A whole number of steps, or a share of all steps when below 1."""
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    optim: str = "adamw_torch_fused"
    bf16: bool | None = None
    """Mixed precision in bfloat16; null: on where the hardware is fast at it and the parameters
    are float32."""
    fp16: bool = False
    tf32: bool | None = None
    gradient_checkpointing: bool = False
    gradient_checkpointing_kwargs: dict[str, Any] = field(default_factory=dict)
    logging_steps: int = 1
    save_strategy: SaveStrategy = SaveStrategy.steps
    save_steps: float = 500
    save_total_limit: int | None = 2
    dataloader_num_workers: int = 0
    parallelism: Parallelism = Parallelism.ddp
    """What several processes share: ddp, the data alone; fsdp, also the parameters, gradients and
    optimizer state, of which each holds a shard (the host of rank 0 must hold the whole model, no
    device has to)."""
    context_parallel_size: int = 1
    """Processes that share each row of the data, for contexts that are too long for one: each keeps
    its part of a row's activations. 1: whole rows. It divides the number of processes and the
    model's attention heads; per_device_train_batch_size then counts the rows of a group."""
    tensor_parallel_size: int = 1
    """Processes that share each matrix of the model, as transformers cuts it. 1: whole matrices;
    otherwise the number of all processes."""
    loss_head: LossHead = LossHead.auto
    """How the loss is computed from the hidden states: auto, chunked, liger, model."""
    torch_compile: bool = False
    """Compile each decoder layer for itself while it trains; attention stays as it is."""
    report_to: list[str] = field(default_factory=lambda: ["tensorboard"])
    resume_from_checkpoint: str | None = None
    """A checkpoint directory; a run's directory (its newest complete checkpoint); or `auto` (the
    newest complete checkpoint of this very run directory, if it has one)."""
    profile: bool = False
    """Record a few steps with torch.profiler: the trace is in `profile/` of the run's directory."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Any other TrainingArguments field; checked against its signature before training."""
