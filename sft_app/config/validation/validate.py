"""Rules that cross keys and groups, checked before anything is written or loaded."""

import os
import re
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path

from sft_app.common.datasheets import BY_KEY
from sft_app.common.errors import ConfigError
from sft_app.config.locations import (
    COMPRESSED_SUFFIXES,
    DATA_SUFFIXES,
    check_data_source,
    check_file,
    check_model_source,
)
from sft_app.config.overrides.alias_values import nearest
from sft_app.config.schema.app import AppConfig
from sft_app.config.schema.data import Packing
from sft_app.config.schema.launch import Device
from sft_app.config.schema.rope import RopeMethod
from sft_app.config.transformers_names import (
    optimizer_names,
    scheduler_names,
    training_argument_names,
)
from sft_app.config.validation.check_data import check_data_names, check_position_skipping
from sft_app.config.validation.check_eval_strategy import check_eval_strategy
from sft_app.config.validation.check_evaluation import check_evaluation
from sft_app.config.validation.check_secrets import check_secrets
from sft_app.config.validation.check_trainer import check_trainer_support
from sft_app.config.validation.number_ranges import check_numbers

METHOD_FIELDS: dict[str, tuple[RopeMethod, ...]] = {
    "theta": (RopeMethod.abf,),
    "attention_factor": (RopeMethod.yarn, RopeMethod.longrope),
    "beta_fast": (RopeMethod.yarn,),
    "beta_slow": (RopeMethod.yarn,),
    "mscale": (RopeMethod.yarn,),
    "mscale_all_dim": (RopeMethod.yarn,),
    "truncate": (RopeMethod.yarn,),
    "low_freq_factor": (RopeMethod.llama3,),
    "high_freq_factor": (RopeMethod.llama3,),
    "short_factor": (RopeMethod.longrope,),
    "long_factor": (RopeMethod.longrope,),
}

SET_BY_THE_APP = {
    "output_dir": "hydra.run.dir",
    "seed": "seed",
    "data_seed": "seed",
    "use_cpu": "launch.device",
    "use_cache": "nothing: it is off in training and on in what is saved",
    "logging_nan_inf_filter": "nothing: what is not finite must be seen",
    "average_tokens_across_devices": "nothing: a step's loss counts every token once",
    "activation_checkpointing": "trainer.gradient_checkpointing",
    "activation_checkpointing_kwargs": "trainer.gradient_checkpointing_kwargs",
    "remove_unused_columns": "nothing: the data pipeline sets it",
    "label_names": "nothing: the data pipeline sets it",
    "disable_tqdm": "nothing: the progress bar is the app's own",
    "push_to_hub": "nothing: upload model/ yourself when it is what you want",
}


def validate(config: AppConfig, *, on_slurm: bool = False, without_data: bool = False) -> None:
    """Raise ConfigError for the first setting, or combination, that cannot work.

    `on_slurm`: the job will be started by Slurm, on all of its nodes, whatever this process is.
    `without_data`: what `data` says is not read, such as the demo's where nobody named any.
    """
    checks: list[Callable[[AppConfig], None]] = [
        check_secrets,
        check_numbers,
        _check_context,
        _check_model,
        _check_rope,
        *([] if without_data else [_check_data, check_data_names]),
        check_position_skipping,
        check_evaluation,
        check_eval_strategy,
        _check_trainer,
        _check_trainer_extra,
        check_trainer_support,
        _check_launch,
        _check_run,
        _check_plan,
    ]
    for check in checks:
        check(config)
    if not on_slurm and "SLURM_JOB_ID" not in os.environ:
        _check_nodes_by_hand(config)


def _check_context(config: AppConfig) -> None:
    if config.tokenizer.model_max_length < config.context_length:
        raise ConfigError(
            f"tokenizer.model_max_length={config.tokenizer.model_max_length} is shorter than "
            f"context_length={config.context_length}. Leave it out: it follows context_length."
        )


def _check_model(config: AppConfig) -> None:
    check_model_source("model.name_or_path", config.model.name_or_path)
    if config.tokenizer.name_or_path is not None:
        check_model_source("tokenizer.name_or_path", config.tokenizer.name_or_path)
    template = config.tokenizer.chat_template
    if template is not None and ("/" in template or template.endswith(".jinja")):
        check_file("tokenizer.chat_template", template)


def _check_rope(config: AppConfig) -> None:
    rope = config.rope
    for name, methods in METHOD_FIELDS.items():
        if getattr(rope, name) is not None and rope.method not in methods:
            allowed = " or ".join(f"rope={m}" for m in methods)
            raise ConfigError(
                f"rope.{name} has no meaning with rope.method={rope.method}: it belongs to "
                f"{allowed}. Leave it out, or choose that method."
            )
    if rope.method is RopeMethod.longrope and (not rope.short_factor or not rope.long_factor):
        raise ConfigError(
            "rope.method=longrope needs rope.short_factor and rope.long_factor: one number per "
            "rotary frequency each."
        )


def _check_data(config: AppConfig) -> None:
    data = config.data
    for key, value in (("data.train", data.train), ("data.eval", data.eval)):
        if value is None and key == "data.eval":
            continue
        for reference in _references(key, value):
            check_data_source(key, reference, (*DATA_SUFFIXES, *COMPRESSED_SUFFIXES))
    if data.packing is Packing.best_fit and config.tokenizer.padding_side != "right":
        raise ConfigError(
            "tokenizer.padding_side=left does not go with data.packing=best_fit: leave the padding "
            "on the right, or set data.packing=none."
        )


def _references(key: str, value: object) -> list[str]:
    """Return the paths or ids in a source setting: one string, or a list of {path, weight}."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        for entry in value:
            _check_entry(key, entry)
        paths = [entry.get("path") if isinstance(entry, dict) else entry for entry in value]
        if all(isinstance(path, str) for path in paths):
            return [str(path) for path in paths]
    raise ConfigError(
        f"{key}={value!r} is not a source: give a path, or a list such as "
        f"'{key}=[{{path: a.json, weight: 0.7}}, {{path: b.jsonl, weight: 0.3}}]'."
    )


def _check_entry(key: str, entry: object) -> None:
    if not isinstance(entry, dict):
        return
    for name in entry:
        if name not in ("path", "weight"):
            raise ConfigError(f"{key} has an entry with '{name}': it takes path and weight only.")
    weight = entry.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < 1e6:
        raise ConfigError(f"{key} has weight {weight!r}: give a number above 0, such as 0.5 or 2.")


def _check_trainer(config: AppConfig) -> None:
    trainer = config.trainer
    _check_choice("trainer.optim", trainer.optim, [*optimizer_names(), "muon"])
    _check_choice("trainer.lr_scheduler_type", trainer.lr_scheduler_type, scheduler_names())
    if trainer.bf16 and trainer.fp16:
        raise ConfigError("trainer.bf16=true and trainer.fp16=true exclude each other: keep one.")
    if trainer.fp16 and config.launch.device is Device.cpu:
        raise ConfigError("trainer.fp16=true needs a GPU: leave it out with launch.device=cpu.")
    resume = trainer.resume_from_checkpoint
    if resume not in (None, "auto", "never") and not Path(resume).expanduser().is_dir():
        raise ConfigError(
            f"trainer.resume_from_checkpoint={resume}: there is no such folder. Name a run's "
            "directory, one of its checkpoints/checkpoint-N, auto, or never."
        )


def _check_run(config: AppConfig) -> None:
    name = config.run.name
    if name is not None and not re.fullmatch(r"[\w+=-][\w.+=-]*", name):
        raise ConfigError(
            f"run.name={name} names a folder: use letters, digits and . _ - only, such as "
            "run.name=vicuna_1."
        )


def _check_plan(config: AppConfig) -> None:
    plan, trainer = config.plan, config.trainer
    if plan.gpu is None:
        return
    _check_choice("plan.gpu", plan.gpu, list(BY_KEY))
    together = trainer.context_parallel_size * trainer.tensor_parallel_size
    if plan.gpus % together:
        raise ConfigError(
            f"plan.gpus={plan.gpus} are not divided by the {together} processes that "
            "trainer.context_parallel_size and trainer.tensor_parallel_size put together: set "
            f"plan.gpus={together}, or a multiple of it."
        )


def _check_choice(key: str, value: str, allowed: list[str]) -> None:
    if value not in allowed:
        near = nearest(key, value, allowed)
        hint = f" Did you mean {key}={near}?" if near else ""
        raise ConfigError(f"{key}={value} is not known.{hint} Allowed: {', '.join(allowed)}.")


def _check_trainer_extra(config: AppConfig) -> None:
    known = training_argument_names()
    for name in config.trainer.extra:
        if name in SET_BY_THE_APP:
            raise ConfigError(
                f"trainer.extra.{name} is set by the application; use {SET_BY_THE_APP[name]}."
            )
        if hasattr(config.trainer, name):
            raise ConfigError(f"trainer.extra.{name}: this one is called trainer.{name}.")
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f" Did you mean trainer.extra.{near[0]}?" if near else ""
            raise ConfigError(
                f"trainer.extra.{name} is no field of transformers.TrainingArguments.{hint}"
            )


def _check_launch(config: AppConfig) -> None:
    launch = config.launch
    nproc = launch.nproc_per_node
    if nproc != "auto" and not isinstance(nproc, int):
        raise ConfigError(
            f"launch.nproc_per_node={nproc} must be auto, or a number of processes from 1."
        )
    if launch.node_rank is not None and launch.node_rank >= launch.nnodes:
        raise ConfigError(
            f"launch.node_rank={launch.node_rank} must be from 0 to {launch.nnodes - 1}."
        )
    endpoint = launch.rdzv_endpoint
    if endpoint is not None and not re.fullmatch(r"[^\s/]+:\d{1,5}", endpoint):
        raise ConfigError(
            f"launch.rdzv_endpoint={endpoint} is no HOST:PORT: write node 0's, such as "
            "launch.rdzv_endpoint=node0:29500."
        )
    if launch.nnodes > 1 and config.trainer.auto_find_batch_size:
        raise ConfigError(
            f"trainer.auto_find_batch_size=true starts a job again, which launch.nnodes="
            f"{launch.nnodes} nodes would have to do together: set "
            "trainer.per_device_train_batch_size and trainer.gradient_accumulation_steps."
        )


def _check_nodes_by_hand(config: AppConfig) -> None:
    launch = config.launch
    for name in ("rdzv_endpoint", "node_rank"):
        if launch.nnodes > 1 and getattr(launch, name) is None:
            raise ConfigError(
                f"launch.nnodes={launch.nnodes} outside Slurm needs launch.{name}: start the same "
                "command on each node with launch.rdzv_endpoint=HOST:PORT (node 0's) and "
                "launch.node_rank=0, 1, ..."
            )
