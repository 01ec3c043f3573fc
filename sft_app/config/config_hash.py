"""Which settings decide a run's outcome: their hash tells whether a finished run can be kept."""

import dataclasses
import hashlib
import json
from enum import Enum
from functools import cache
from typing import Any

import yaml

from sft_app.config.conf_files import conf_dir
from sft_app.config.schema.app import AppConfig

CANNOT_CHANGE_THE_OUTCOME = {
    # The budget stands in trainer.max_steps; supervised_tokens alone becomes steps only later.
    "sweep": ("name", "budget", "tokens", "tokens_per_step", "skip_longer_after_oom", "lengths",
              "heldout_length", "best_by", "continue_budgets", "rungs", "keep_one_in", "rung"),
    "run": None,
    "plan": None,
    "launch": ("model_timeout", "rdzv_endpoint", "rdzv_timeout_seconds", "node_rank", "cpu_threads",
               "shutdown_grace_seconds", "timeout"),
    "model": ("cache_dir",),
    "data": ("num_proc", "cache_dir", "preview"),
    "evaluation": ("verify_saved",),
    "trainer": ("resume_from_checkpoint", "resume_anyway", "report_to", "dataloader_num_workers",
                "save_total_limit", "profile", "auto_find_batch_size"),
}  # fmt: skip
"""Group -> keys left out of the hash; None: the whole group."""

ALWAYS_COUNTED = {
    "model": ("name_or_path", "revision", "trust_remote_code", "dtype", "attn_implementation",
              "gguf_file", "original_context_length", "allow_pickle"),
    "tokenizer": ("name_or_path", "padding_side", "use_fast", "legacy", "pad_token",
                  "model_max_length", "chat_template", "add_tokens"),
    "rope": ("method", "factor", "factor_rounding", "force", "theta", "attention_factor",
             "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate", "low_freq_factor",
             "high_freq_factor", "short_factor", "long_factor"),
    "data": ("train", "eval", "eval_examples", "format", "overlong", "on_bad_record", "packing",
             "train_on", "max_examples", "split_seed"),
    "trainer": ("num_train_epochs", "max_steps", "per_device_train_batch_size",
                "gradient_accumulation_steps", "learning_rate", "lr_scheduler_type",
                "lr_scheduler_kwargs", "warmup_steps", "weight_decay", "adam_beta1", "adam_beta2",
                "adam_epsilon", "max_grad_norm", "optim", "bf16", "fp16", "tf32",
                "gradient_checkpointing", "gradient_checkpointing_kwargs", "logging_steps",
                "save_strategy", "save_steps", "parallelism", "context_parallel_size",
                "tensor_parallel_size", "loss_head", "torch_compile", "extra"),
    "adapter": ("method", "rank", "alpha", "dropout", "target_modules", "rank_stabilised",
                "quantization", "double_quantization"),
    "launch": ("nproc_per_node", "nnodes", "device"),
    "evaluation": ("before", "after", "max_examples", "max_tokens", "batch_size", "lengths",
                   "documents", "max_documents"),
}  # fmt: skip
"""The settings of version 0.1.0, whatever their value: hashes of its runs stay valid. A later one
counts only where it differs from its default in conf/, so that adding it changes no hash either."""

SAME_OUTCOME: dict[str, dict[str, Any]] = {
    "data.packing": {"auto": "best_fit"},
    "evaluation.lengths": {"auto": []},
}
"""Key -> newer value -> the older one that it stands for. A run that completed with best_fit packed
documents that do not see each other, which is where auto packs, too."""


def can_change_the_outcome(key: str) -> bool:
    """Tell whether the setting of a dotted key counts."""
    group, _, name = key.partition(".")
    left_out = CANNOT_CHANGE_THE_OUTCOME.get(group, ())
    return left_out is not None and name not in left_out


def config_hash(config: AppConfig) -> str:
    """Return a SHA-256, in hexadecimal, over the resolved settings that can change the outcome."""
    text = json.dumps(_counted(config), sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def _counted(config: AppConfig) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for group in dataclasses.fields(config):
        value = getattr(config, group.name)
        if not dataclasses.is_dataclass(value):
            settings[group.name] = value
        elif CANNOT_CHANGE_THE_OUTCOME.get(group.name, ()) is not None:
            settings[group.name] = _counted_of_group(group.name, value)
    return {name: value for name, value in settings.items() if value != {}}


def _counted_of_group(group: str, settings: Any) -> dict[str, Any]:
    counted = {}
    # Nothing is measured without either, whatever the other settings say.
    measures = group != "evaluation" or settings.before or settings.after
    for field in dataclasses.fields(settings):
        key, value = f"{group}.{field.name}", getattr(settings, field.name)
        always = field.name in ALWAYS_COUNTED.get(group, ())
        if can_change_the_outcome(key) and (always or (measures and value != _default(key, field))):
            counted[field.name] = _same_outcome(key, value)
    return counted


def _default(key: str, field: dataclasses.Field[Any]) -> Any:
    """Return the value that holds when nothing is said: that of conf/, else that of the schema."""
    group, _, name = key.partition(".")
    if name in _default_option(group):
        return _default_option(group)[name]
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


@cache
def _default_option(group: str) -> dict[str, Any]:
    root = yaml.safe_load((conf_dir() / "config.yaml").read_text(encoding="utf-8"))
    chosen = {name: option for entry in root["defaults"] if isinstance(entry, dict)
              for name, option in entry.items()}  # fmt: skip
    path = conf_dir() / group / f"{chosen.get(group)}.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {} if path.is_file() else {}


def _same_outcome(key: str, value: Any) -> Any:
    return SAME_OUTCOME.get(key, {}).get(value, value) if isinstance(value, str) else value


def _plain(value: object) -> object:
    return value.value if isinstance(value, Enum) else str(value)
