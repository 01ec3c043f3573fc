"""What the trainer group can ask for and this application, or this installation, cannot do."""

from difflib import get_close_matches

from sft_app.common.errors import ConfigError
from sft_app.common.processes import is_installed
from sft_app.config.schema.app import AppConfig
from sft_app.config.schema.launch import Device
from sft_app.config.schema.trainer import (
    LossHead,
    LossWeighting,
    OnLossSpike,
    Parallelism,
    SaveStrategy,
    TrainerConfig,
)
from sft_app.config.transformers_names import training_argument_names
from sft_app.config.validation.check_adapter import check_adapter
from sft_app.config.validation.check_parallel import check_parallel

NOT_OFFERED = {
    "metric_for_best_model": "trainer.load_best_model_at_end goes by the held-out loss.",
    "greater_is_better": "trainer.load_best_model_at_end goes by the held-out loss.",
    "save_only_model": "a checkpoint without the optimizer's state cannot be gone on from.",
    "fsdp": "trainer.parallelism=fsdp shards the model over all processes.",
    "fsdp_config": "trainer.parallelism=fsdp shards each layer, and has no settings.",
    "deepspeed": "trainer.parallelism=fsdp shards parameters, gradients and optimizer state.",
    "parallelism_config": (
        "its context parallelism takes one causal mask for a whole row and cannot see packed "
        "documents; use trainer.context_parallel_size, trainer.tensor_parallel_size or "
        "trainer.parallelism=fsdp."
    ),
    "torch_compile_backend": (
        "it would compile the whole model; trainer.torch_compile=true compiles each layer, with "
        "inductor."
    ),
    "torch_compile_mode": (
        "it would compile the whole model; trainer.torch_compile=true compiles each layer, in "
        "inductor's default mode."
    ),
    "use_liger_kernel": (
        "its forward would take the place of the one that keeps packed documents apart and weights "
        "tokens; trainer.loss_head=liger takes its loss."
    ),
    "liger_kernel_config": "trainer.loss_head=liger takes its loss, and has no settings.",
}
"""TrainingArguments that the app's own loading, evaluation or saving would not be right with."""

BITSANDBYTES = (
    "adamw_bnb_8bit", "adamw_8bit", "ademamix", "ademamix_8bit", "lion_8bit", "lion_32bit",
    "paged_adamw_32bit", "paged_adamw_8bit", "paged_ademamix_32bit", "paged_ademamix_8bit",
    "paged_lion_32bit", "paged_lion_8bit", "rmsprop_bnb", "rmsprop_bnb_8bit", "rmsprop_bnb_32bit",
)  # fmt: skip
NOT_PAGED = {"adamw_32bit": "adamw_torch_fused", "ademamix_32bit": "ademamix"}
"""Where the optimizer that is not paged is called otherwise."""
OPTIMIZER_PACKAGES = {
    **dict.fromkeys(BITSANDBYTES, "bitsandbytes"),
    **dict.fromkeys(("adamw_torch_4bit", "adamw_torch_8bit"), "torchao"),
    "stable_adamw": "optimi",
}
"""Import names; galore, apollo and schedule_free follow their own in OPTIMIZER_FAMILIES."""
OPTIMIZER_FAMILIES = {
    "galore_": "galore_torch",
    "apollo_": "apollo_torch",
    "schedule_free_": "schedulefree",
}
INSTALL_NAMES = {
    "optimi": "torch-optimi",
    "galore_torch": "galore-torch",
    "apollo_torch": "apollo-torch",
}
"""Where pip knows a package by another name."""
OF_WHOLE_MATRICES = ("galore_", "apollo_")
"""Families of optimizers that project a matrix, which shards are not."""
STEP_IN_BACKWARD = ("lomo", "adalomo")
"""Optimizers that are done before backward is, as are those that end in `_layerwise`."""
LOGGERS = (
    "wandb", "mlflow", "comet_ml", "clearml", "swanlab", "trackio", "neptune", "codecarbon",
    "dvclive", "dagshub",
)  # fmt: skip
"""What trainer.report_to can name beside tensorboard: each needs the package of its name."""


def check_trainer_support(config: AppConfig) -> None:
    """Raise ConfigError for what is refused, or needs a package that is not there."""
    for name in config.trainer.extra:
        if name in NOT_OFFERED:
            raise ConfigError(f"trainer.extra.{name} is not offered: {NOT_OFFERED[name]}")
    check_adapter(config)
    _check_batches(config.trainer)
    _check_checkpointing(config)
    _check_tiles(config.trainer)
    _check_loss_weighting(config.trainer)
    _check_loss_spike(config.trainer)
    _check_optimizer(config.trainer)
    check_parallel(config)
    if config.launch.device is Device.cpu:
        check_without_gpu(config.trainer, "with launch.device=cpu")
    if config.trainer.parallelism is Parallelism.fsdp:
        if not _has_transformers_5_23():
            raise ConfigError(
                "trainer.parallelism=fsdp needs transformers 5.23 or newer: older Trainers would "
                "wrap the sharded model once more. Upgrade it, or use trainer.parallelism=ddp."
            )
        if config.trainer.fp16:
            raise ConfigError(
                "trainer.fp16=true with trainer.parallelism=fsdp is not verified: use "
                "trainer.bf16=true."
            )
        if config.trainer.optim == "muon":
            raise ConfigError(
                "trainer.optim=muon needs whole matrices and trainer.parallelism=fsdp cuts them: "
                "use trainer.parallelism=ddp, or trainer.optim=adamw_torch_fused."
            )
        if config.trainer.optim == "adafactor":
            raise ConfigError(
                "trainer.optim=adafactor cannot step shards: with trainer.parallelism=fsdp use "
                "trainer.optim=adamw_torch_8bit (torchao), or adamw_torch_fused."
            )
        if config.trainer.optim in BITSANDBYTES or config.trainer.optim.startswith(
            OF_WHOLE_MATRICES
        ):
            raise ConfigError(
                f"trainer.optim={config.trainer.optim} cannot step shards: with "
                "trainer.parallelism=fsdp use trainer.optim=adamw_torch_8bit (torchao), or "
                "adamw_torch_fused."
            )
    _check_packages(config)


def _check_batches(trainer: TrainerConfig) -> None:
    """The rows of a step are those that the plan, and a resume, count."""
    if trainer.auto_find_batch_size and trainer.extra.get("dataloader_drop_last"):
        raise ConfigError(
            "trainer.auto_find_batch_size=true goes on with fewer rows at once, and "
            "trainer.extra.dataloader_drop_last=true leaves out of each epoch what does not fill "
            "them: the run would be at another place of its data. Leave one of them out."
        )
    settings = trainer.extra.get("accelerator_config")
    for name in ("split_batches", "dispatch_batches"):
        if isinstance(settings, dict) and settings.get(name):
            raise ConfigError(
                f"trainer.extra.accelerator_config.{name}=true is not offered: each process reads "
                "batches of trainer.per_device_train_batch_size rows of its own. Leave it out."
            )


def _check_loss_spike(trainer: TrainerConfig) -> None:
    """A rewind needs a checkpoint of two steps ago at least, and so more than the newest one."""
    if trainer.on_loss_spike is OnLossSpike.rewind:
        if trainer.save_strategy is SaveStrategy.no:
            raise ConfigError(
                "trainer.on_loss_spike=rewind goes back to a checkpoint, and "
                "trainer.save_strategy=no writes none: leave trainer.save_strategy out."
            )
        if trainer.save_total_limit == 1:
            raise ConfigError(
                "trainer.on_loss_spike=rewind goes back to a checkpoint from before the spike, "
                "which may be the last but one: set trainer.save_total_limit=2, or more."
            )


def _check_optimizer(trainer: TrainerConfig) -> None:
    """Nobody sees the gradients of one that steps in backward, and no checkpoint has its state."""
    if trainer.optim == "grokadamw":
        raise ConfigError(
            "trainer.optim=grokadamw keeps its state where no checkpoint has it: a run that goes "
            "on would be another training. Use trainer.optim=adamw_torch_fused."
        )
    if trainer.optim in STEP_IN_BACKWARD or trainer.optim.endswith("_layerwise"):
        raise ConfigError(
            f"trainer.optim={trainer.optim} changes weights while gradients are computed, so that "
            "none are summed over micro-batches, clipped, or looked at before, and a run cannot "
            "be gone on with: use trainer.optim=adafactor, which keeps almost no state, or "
            "adapter=lora."
        )


def check_without_gpu(trainer: TrainerConfig, where: str) -> None:
    """Raise ConfigError for what only a GPU has a use for. `where` there is none ends the sentence.

    Called again by the worker, which sees what launch.device=auto has come to.
    """
    if trainer.gradient_checkpointing_kwargs.get("offload"):
        raise ConfigError(
            "trainer.gradient_checkpointing_kwargs.offload=true moves activations from a GPU to "
            f"the host's memory: leave it out {where}."
        )
    name = trainer.optim.removeprefix("paged_")
    if name != trainer.optim:
        raise ConfigError(
            f"trainer.optim={trainer.optim} moves optimizer state from a GPU to the host's memory: "
            f"use trainer.optim={NOT_PAGED.get(name, name)} {where}."
        )


def _check_packages(config: AppConfig) -> None:
    optim = config.trainer.optim
    package = OPTIMIZER_PACKAGES.get(optim)
    for prefix, name in OPTIMIZER_FAMILIES.items():
        if optim.startswith(prefix):
            package = name
    if package is not None and not is_installed(package):
        raise ConfigError(
            f"trainer.optim={optim} needs a package that is not installed: pip install "
            f"{INSTALL_NAMES.get(package, package)}, or use trainer.optim=adafactor, which keeps "
            "almost no state."
        )
    if config.trainer.loss_head is LossHead.liger:
        if not is_installed("liger_kernel"):
            raise ConfigError(
                "trainer.loss_head=liger needs a package that is not installed: pip install "
                "liger-kernel (or 'sft-app[fused]'), or leave it out."
            )
        if config.launch.device is Device.cpu:
            raise ConfigError(
                "trainer.loss_head=liger needs a GPU: leave it out with launch.device=cpu."
            )
    for logger in config.trainer.report_to:
        if logger in ("tensorboard", "none"):
            continue
        if logger not in LOGGERS:
            near = get_close_matches(logger, LOGGERS, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ConfigError(
                f"trainer.report_to=[{logger}] is not known.{hint} Allowed: tensorboard, "
                f"{', '.join(LOGGERS)}."
            )
        if not is_installed(logger):
            raise ConfigError(
                f"trainer.report_to=[{logger}] needs a package that is not installed: pip install "
                f"{logger}, or leave it out (metrics.jsonl is always written)."
            )


def _check_loss_weighting(trainer: TrainerConfig) -> None:
    if trainer.loss_weighting is LossWeighting.token:
        return
    if trainer.loss_head in (LossHead.model, LossHead.liger):
        raise ConfigError(
            f"trainer.loss_weighting=conversation weights tokens, which trainer.loss_head="
            f"{trainer.loss_head} cannot: set trainer.loss_head=chunked, or leave it out."
        )
    if trainer.extra.get("label_smoothing_factor"):
        raise ConfigError(
            "trainer.extra.label_smoothing_factor: smoothed losses are not weighted, and "
            "trainer.loss_weighting=conversation weights tokens; leave one of them out."
        )


def _check_tiles(trainer: TrainerConfig) -> None:
    if trainer.tiled_mlp not in ("auto", True, False):
        raise ConfigError(
            f"trainer.tiled_mlp={trainer.tiled_mlp} is not known. Allowed: auto, true, false."
        )
    if trainer.tiled_mlp is True and trainer.tensor_parallel_size > 1:
        raise ConfigError(
            "trainer.tiled_mlp=true is not verified with trainer.tensor_parallel_size="
            f"{trainer.tensor_parallel_size}: leave it out, or use "
            "trainer.context_parallel_size, which shares long rows."
        )


def _check_checkpointing(config: AppConfig) -> None:
    trainer = config.trainer
    settings = trainer.gradient_checkpointing_kwargs
    if settings and not trainer.gradient_checkpointing:
        raise ConfigError(
            "trainer.gradient_checkpointing_kwargs has no effect without "
            "trainer.gradient_checkpointing=true."
        )
    if "every_n_layers" in settings and not _has_transformers_5_23():
        raise ConfigError(
            "trainer.gradient_checkpointing_kwargs.every_n_layers needs transformers 5.23 or "
            "newer: upgrade it, or leave this out to checkpoint every layer."
        )


def _has_transformers_5_23() -> bool:
    """Tell by a name that is new there, without importing it."""
    return "activation_checkpointing_kwargs" in training_argument_names()
