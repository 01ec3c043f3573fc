"""The typed trainer group as transformers.TrainingArguments."""

from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from sft_app.common.secrets import without_secrets
from sft_app.compat import model_internals
from sft_app.config.schema.app import AppConfig
from sft_app.config.schema.from_environment import as_written
from sft_app.config.schema.launch import Device, LaunchConfig
from sft_app.config.schema.model import Dtype
from sft_app.config.schema.trainer import TrainerConfig
from sft_app.config.validation.check_trainer import check_without_gpu
from sft_app.records.run_files import CHECKPOINTS
from sft_app.training.experiment_trackers import name_tracked_run


class ArgumentsToShow(TrainingArguments):
    """TrainingArguments that show no secret where trackers (TensorBoard, wandb) write them down."""

    def to_dict(self) -> dict[str, Any]:
        """Return all arguments, those from the environment as they were written."""
        shown: dict[str, Any] = without_secrets(as_written(super().to_dict()))
        return shown


def training_arguments(config: AppConfig, run_dir: Path) -> TrainingArguments:
    """Return TrainingArguments; reading `.device` of the result sets up torch.distributed.

    Raises ConfigError for what needs a GPU where there is none, and ValueError, from transformers,
    for combinations that it refuses.
    """
    trainer = config.trainer
    use_cpu = not uses_cuda(config.launch.device)
    if use_cpu:
        check_without_gpu(trainer, "on a machine without a GPU")
    return ArgumentsToShow(
        output_dir=str(run_dir / CHECKPOINTS),
        seed=config.seed,
        data_seed=config.seed,
        use_cpu=use_cpu,
        num_train_epochs=trainer.num_train_epochs,
        max_steps=trainer.max_steps,
        per_device_train_batch_size=trainer.per_device_train_batch_size,
        gradient_accumulation_steps=trainer.gradient_accumulation_steps,
        learning_rate=trainer.learning_rate,
        lr_scheduler_type=trainer.lr_scheduler_type,
        lr_scheduler_kwargs=dict(trainer.lr_scheduler_kwargs),
        warmup_steps=trainer.warmup_steps,
        weight_decay=trainer.weight_decay,
        adam_beta1=trainer.adam_beta1,
        adam_beta2=trainer.adam_beta2,
        adam_epsilon=trainer.adam_epsilon,
        max_grad_norm=trainer.max_grad_norm,
        # Muon is the app's own (muon.py): transformers has no name for it.
        optim="adamw_torch" if trainer.optim == "muon" else trainer.optim,
        bf16=wants_bf16(config, use_cpu=use_cpu),
        fp16=trainer.fp16,
        tf32=trainer.tf32,
        **checkpointing_arguments(config.trainer),
        logging_steps=trainer.logging_steps,
        # A NaN must be seen, and ends the run (see trainer.py); the filter would log it as 0.0.
        logging_nan_inf_filter=False,
        save_strategy=trainer.save_strategy.value,
        save_steps=trainer.save_steps,
        save_total_limit=trainer.save_total_limit,
        # The best checkpoint is kept, and loaded, by the application (heldout_trainer.py).
        eval_strategy=trainer.eval_strategy.value,
        eval_steps=trainer.save_steps if trainer.eval_steps is None else trainer.eval_steps,
        dataloader_num_workers=trainer.dataloader_num_workers,
        # trainer.torch_compile compiles layer by layer (compile_layers.py); this, the whole model.
        torch_compile=False,
        report_to=list(trainer.report_to),
        remove_unused_columns=False,
        disable_tqdm=True,
        # Counted by tokens over accumulation and ranks, whatever the number of processes.
        average_tokens_across_devices=True,
        **{
            "ddp_timeout": collective_timeout(config.launch),
            "run_name": name_tracked_run(run_dir, trainer.report_to),
            **trainer.extra,
        },
    )


def collective_timeout(launch: LaunchConfig) -> int:
    """Return the seconds that ranks wait for each other in a collective.

    Longer than what is expected of a step, so that the stacks of a rank that hangs are written
    before its peers give up; and than reading or writing a few hundred gigabytes on one of them.
    """
    return max(2 * 3600, launch.timeout + 600)


def checkpointing_arguments(trainer: TrainerConfig) -> dict[str, Any]:
    """Return the arguments of activation checkpointing, as this transformers calls them."""
    prefix = model_internals.checkpointing_prefix()
    settings = dict(trainer.gradient_checkpointing_kwargs)
    settings.pop("offload", None)  # the application's own (offload_activations.py)
    return {
        f"{prefix}_checkpointing": trainer.gradient_checkpointing,
        f"{prefix}_checkpointing_kwargs": settings or None,
    }


def uses_cuda(device: Device) -> bool:
    """Tell whether this worker trains on a GPU; ValueError when the one asked for is missing."""
    available = torch.cuda.is_available()
    if device is Device.cuda and not available:
        raise ValueError(
            "launch.device=cuda, and torch sees no CUDA device here: leave it out to train on the "
            "CPU, or install a torch build for this machine's driver."
        )
    return available and device is not Device.cpu


def wants_bf16(config: AppConfig, *, use_cpu: bool) -> bool:
    """Resolve trainer.bf16: null is mixed precision where the GPU has native bfloat16.

    Harmless for parameters that are bfloat16 already. On CPUs without bfloat16 instructions the
    same matrix product is about a hundred times slower than in float32, so null means off there,
    unless the parameters are bfloat16.
    """
    if config.trainer.bf16 is not None:
        return config.trainer.bf16
    if config.trainer.fp16:
        return False
    if use_cpu:
        return config.model.dtype is Dtype.bfloat16
    return torch.cuda.get_device_capability() >= (8, 0)
