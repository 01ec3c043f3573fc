"""Training settings, with the names and meaning of `transformers.TrainingArguments`."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class SaveStrategy(StrEnum):
    """When checkpoints are written."""

    no = "no"
    """Never; the final model is always saved."""
    steps = "steps"
    """Every `save_steps` optimizer steps."""
    epoch = "epoch"
    """After each pass over the data."""


class EvalStrategy(StrEnum):
    """When held-out loss is measured while training goes."""

    no = "no"
    """Not: before and after training only, as `evaluation` says."""
    steps = "steps"
    """Every `eval_steps` optimizer steps, and after the last."""
    epoch = "epoch"
    """After each pass over the data."""


class OnNonfinite(StrEnum):
    """What is done at a step whose loss or gradient is NaN or infinite."""

    stop = "stop"
    """The run ends, failed."""
    skip = "skip"
    """The step is left out; ten in a row end the run."""


class OnLossSpike(StrEnum):
    """What is done at a step whose loss is far above those before it."""

    ignore = "ignore"
    """Nothing."""
    stop = "stop"
    """The run ends, failed; the step changes no weight."""
    rewind = "rewind"
    """Weights and optimizer go back to a checkpoint from before the spike; the batches since then
    are left out."""


class Parallelism(StrEnum):
    """What several processes share."""

    ddp = "ddp"
    """The data alone."""
    fsdp = "fsdp"
    """Also the parameters, gradients and optimizer state, of which each process holds a shard."""


class LossHead(StrEnum):
    """How the loss is computed from the hidden states."""

    auto = "auto"
    """liger on a GPU where liger-kernel is installed, else chunked."""
    chunked = "chunked"
    """The logits of a few supervised tokens at a time."""
    liger = "liger"
    """liger-kernel's fused linear cross-entropy; needs a GPU."""
    model = "model"
    """The model's own loss, which holds all logits."""


class LossWeighting(StrEnum):
    """What counts the same in an optimizer step."""

    token = "token"
    """Each supervised token: long answers teach more than short ones."""
    conversation = "conversation"
    """Each conversation: the mean over its supervised tokens, then the mean over conversations."""


@dataclass(kw_only=True)
class TrainerConfig:
    """Say how it is trained, in the words of transformers.TrainingArguments."""

    num_train_epochs: float = 1.0
    """Passes over the data; a part of one is allowed."""
    max_steps: int = -1
    """Optimizer steps; -1: as many as `num_train_epochs` takes."""
    per_device_train_batch_size: int = 1
    """Rows a process takes at once: `context_length` tokens each when packing, one example each
    otherwise."""
    gradient_accumulation_steps: int = 1
    """Batches of each process in one optimizer step."""
    auto_find_batch_size: bool = False
    """When memory runs out, go on from the newest checkpoint with half the
    `per_device_train_batch_size` and twice the `gradient_accumulation_steps`: an optimizer step
    keeps its rows."""
    learning_rate: float = 2e-5
    """The highest, after warm-up."""
    lr_scheduler_type: str = "cosine"
    """How the learning rate falls: the names that transformers knows, such as linear, cosine,
    constant_with_warmup."""
    lr_scheduler_kwargs: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the schedule, such as {num_cycles: 2}."""
    warmup_steps: float = 0.03
    """Steps over which the learning rate rises: a whole number, or below 1 a share of all steps."""
    weight_decay: float = 0.0
    """Share of a weight that is taken off, times the learning rate, in each step."""
    adam_beta1: float = 0.9
    """How slowly Adam forgets gradients."""
    adam_beta2: float = 0.999
    """How slowly Adam forgets squared gradients."""
    adam_epsilon: float = 1e-8
    """What Adam adds to the root of the squared gradients."""
    max_grad_norm: float = 1.0
    """Longer gradients are scaled down to this norm; 0: never."""
    optim: str = "adamw_torch_fused"
    """The optimizer: the names that transformers knows, or muon."""
    bf16: bool | None = None
    """Mixed precision in bfloat16; null: on where the GPU is fast at it, and on a CPU with
    model.dtype=bfloat16."""
    fp16: bool = False
    """Mixed precision in float16 with loss scaling, for GPUs without bfloat16."""
    tf32: bool | None = None
    """Let float32 matrix products use TF32 (Ampere and newer); null: torch's default."""
    gradient_checkpointing: bool = False
    """Keep each layer's input only, and compute the rest again in backward: less memory, a third
    more time."""
    gradient_checkpointing_kwargs: dict[str, Any] = field(default_factory=dict)
    """Its options, such as {every_n_layers: 2} or {offload: true}."""
    logging_steps: int = 1
    """Optimizer steps between two lines of metrics.jsonl."""
    save_strategy: SaveStrategy = SaveStrategy.steps
    """When checkpoints are written."""
    save_steps: float = 500
    """Optimizer steps between two checkpoints, or a share of all steps when below 1."""
    save_total_limit: int | None = 2
    """Older checkpoints beyond this number are deleted; null: all are kept."""
    eval_strategy: EvalStrategy = EvalStrategy.no
    """When held-out loss is measured while training goes: no, steps, epoch. It is the measure of
    evaluation before and after, on the same conversations, and stands in metrics.jsonl."""
    eval_steps: float | None = None
    """Optimizer steps between two of these measurements, or a share of all steps when below 1;
    null: as `save_steps`."""
    load_best_model_at_end: bool = False
    """What is saved in `model/`, and evaluated after training, is the step with the lowest held-out
    loss. Its checkpoint is written whenever a lower loss is measured, and is kept beside the newest
    `save_total_limit`."""
    early_stopping_patience: int | None = None
    """Training ends when so many measurements of held-out loss in a row were no lower than the
    lowest before them; null: it goes on to its last step."""
    dataloader_num_workers: int = 0
    """Processes that prepare batches; 0: the training process itself."""
    parallelism: Parallelism = Parallelism.ddp
    """What several processes share: ddp, the data alone; fsdp, also the parameters, gradients and
    optimizer state, of which each holds a shard: no device has to hold the whole model, and no host
    where each process can read its own rows of the weights from the files, which the log says."""
    fsdp_replicas: int = 1
    """Copies of the shards of parallelism=fsdp (HSDP): weights are gathered inside of each copy,
    and gradients summed between them. As many as there are nodes keeps all but that sum inside of
    a node. It divides the number of processes."""
    context_parallel_size: int = 1
    """Processes that share each row of the data, for contexts that are too long for one: each keeps
    its part of a row's activations. 1: whole rows. It divides the number of processes and the
    model's attention heads; per_device_train_batch_size then counts the rows of a group."""
    tensor_parallel_size: int = 1
    """Processes that share each matrix of the model, as transformers cuts it. 1: whole matrices;
    otherwise the number of all processes."""
    tiled_mlp: Any = "auto"
    """Compute each layer's MLP and norms in tiles of the sequence, so that what is inside of them
    no longer grows with the row: true, false, or auto, which does so with gradient_checkpointing
    where it takes a twentieth and more off the memory that is estimated. There it costs a few
    percent of time; without gradient_checkpointing each MLP is computed once more."""
    loss_head: LossHead = LossHead.auto
    """How the loss is computed from the hidden states: auto, chunked, liger, model."""
    loss_weighting: LossWeighting = LossWeighting.token
    """What counts the same in an optimizer step: token, each supervised token; conversation, each
    conversation, however it is packed, accumulated or shared by processes: the mean over its
    supervised tokens (weights of messages are factors of their terms), then the mean over the
    step's conversations. Of one that is split, each piece counts as its share of the conversation's
    supervised tokens, so that all pieces together count once, in whichever steps they stand."""
    torch_compile: bool = False
    """Compile each decoder layer for itself while it trains; attention stays as it is."""
    report_to: list[str] = field(default_factory=lambda: ["tensorboard"])
    """Where metrics go beside metrics.jsonl: tensorboard, wandb, mlflow, ... The project is
    sft_app, the run is called as its folder, and the group is its sweep, unless the environment
    says otherwise (WANDB_PROJECT, MLFLOW_EXPERIMENT_NAME, ...)."""
    resume_from_checkpoint: str | None = "auto"
    """auto: go on from the newest whole checkpoint of this very run directory, if it has one;
    never: start anew, and keep what stands there aside; or a path: of a checkpoint, or of a run
    (its newest whole one)."""
    resume_anyway: bool = False
    """Go on although the data, the model or settings differ from those that the run began with."""
    on_nonfinite: OnNonfinite = OnNonfinite.stop
    """At a step whose loss or gradient is NaN or infinite: stop the run, or skip the step. Either
    way nothing is updated, and `autopsy/` in the run's directory tells what it was made of."""
    on_loss_spike: OnLossSpike = OnLossSpike.ignore
    """At a step whose loss is far above those before it: ignore it; stop the run; or rewind to the
    newest whole checkpoint that is known to be from before the spike, and leave out the batches of
    the steps since then, this one included. Those steps stay counted: the schedule and the data go
    on as if they had changed nothing."""
    loss_spike_threshold: float = 6.0
    """Standard deviations above the mean of the last `loss_spike_window` losses that make a
    spike."""
    loss_spike_window: int = 128
    """Steps whose losses a step's loss is compared with; before there are so many, none is a
    spike."""
    max_rewinds: int = 3
    """How often `on_loss_spike=rewind` goes back; the next spike ends the run."""
    profile: bool = False
    """Record a few steps with torch.profiler: the trace is in `profile/` of the run's directory."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Any other TrainingArguments field; checked against its signature before training."""
