"""What other tools' values are here, for the suggestion to be one that works."""

from collections.abc import Callable, Sequence
from difflib import get_close_matches

VALUES = {
    "adapter.method": {
        "true": "lora", "peft": "lora", "freeze": "lora", "dora": "lora",
        "full": "none", "false": "none", "sft": "none",
        "4": "qlora", "8": "qlora", "bnb": "qlora", "4bit": "qlora",
    },
    "data.format": {
        "chatml": "messages", "openai": "messages", "chat_template": "messages",
        "conversation": "messages", "conversational": "messages", "completion": "text",
        "pretrain": "text", "pretraining": "text", "instruction": "alpaca",
    },
    "data.overlong": {
        "delete": "drop", "raise": "drop", "error": "drop", "false": "drop", "none": "drop",
        "true": "truncate", "left": "truncate", "right": "truncate", "keep_start": "truncate",
        "keep_end": "truncate", "truncation_left": "truncate", "longest_first": "truncate",
    },
    "data.packing": {
        "true": "best_fit", "bfd": "best_fit", "bfd_split": "best_fit",
        "ffd": "best_fit", "wrapped": "best_fit", "multipack": "best_fit",
        "false": "none",
    },
    "data.train_on": {"true": "last_turn", "false": "all_turns"},
    "launch.device": {"gpu": "cuda", "cuda:0": "cuda", "true": "cpu", "false": "auto"},
    "model.attn_implementation": {
        "fa2": "flash_attention_2", "flash": "flash_attention_2", "flash_attn": "flash_attention_2",
        "fa3": "flash_attention_3", "math": "eager", "true": "auto", "false": "auto",
        "xformers": "auto", "disabled": "auto",
    },
    "model.dtype": {
        "bf16": "bfloat16", "torch.bfloat16": "bfloat16", "bf16-mixed": "auto", "bf16-true":
        "bfloat16", "fp16": "float16", "half": "float16", "torch.float16": "float16",
        "fp32": "float32", "torch.float32": "float32", "32": "float32", "16": "float16",
    },
    "rope.method": {
        "default": "none", "false": "none", "true": "linear", "su": "longrope", "ntk-aware": "ntk",
        "dynamic-ntk": "dynamic", "dynamic_ntk": "dynamic", "pi": "linear",
    },
    "trainer.eval_strategy": {"true": "steps", "false": "no", "none": "no"},
    "trainer.gradient_checkpointing": {
        "unsloth": "true", "full": "true", "selective": "true", "none": "false",
    },
    "trainer.gradient_checkpointing_kwargs.offload": {"legacy": "true", "disk": "true"},
    "trainer.loss_head": {
        "true": "liger", "false": "chunked", "cce": "chunked", "cut_cross_entropy": "chunked",
    },
    "trainer.optim": {
        "adam": "adamw_torch_fused", "adamw": "adamw_torch_fused",
        "torch.optim.adamw": "adamw_torch_fused", "adamw8bit": "adamw_8bit",
    },
    "trainer.parallelism": {
        "ddp": "ddp", "false": "ddp", "none": "ddp", "no": "ddp", "zero0": "ddp", "0": "ddp",
        "1": "fsdp", "2": "fsdp", "3": "fsdp",
    },
    "trainer.report_to": {"true": "wandb", "false": "[]", "none": "[]"},
    "trainer.resume_from_checkpoint": {
        "true": "auto", "latest": "auto", "last": "auto", "false": "never", "none": "never",
    },
    "trainer.save_strategy": {"best": "steps", "true": "steps", "false": "no"},
    "adapter.target_modules": {"all": "all-linear", "true": "all-linear", "linear": "all-linear"},
}  # fmt: skip
"""Key here -> value elsewhere, in lower case -> value here."""

VALUES_OF_ALIAS = {
    **dict.fromkeys(("load_in_4bit", "qlora", "q_lora", "use_qlora", "quantization_bit"), "qlora"),
    "use_wandb": "wandb", "use_tensorboard": "tensorboard", "wandb": "wandb",
    "use_cpu": "cpu", "cpu": "cpu", "sdp_attention": "sdpa", "sdpa_attention": "sdpa",
    "flash_attention_2": "flash_attention_2", "use_flash_attention_2": "flash_attention_2",
}  # fmt: skip
"""Alias -> the value that switching it on comes to; off, it is nobody's business here."""

EXAMPLES = {
    "adapter.method": "lora",
    "adapter.target_modules": "all-linear",
    "data.columns": "'{messages: NAME}'",
    "data.format": "messages",
    "data.roles": "'{NAME: user}'",
    "model.attn_implementation": "auto",
    "model.dtype": "bfloat16",
    "rope.method": "yarn",
    "trainer.eval_strategy": "steps",
    "trainer.gradient_checkpointing": "true",
    "trainer.gradient_checkpointing_kwargs.offload": "true",
    "trainer.lr_scheduler_kwargs.min_lr_rate": "0.1",
    "trainer.lr_scheduler_type": "cosine",
    "trainer.optim": "adamw_torch_fused",
    "trainer.parallelism": "fsdp",
    "trainer.report_to": "wandb",
}
"""A value to begin with, where the one that was written is none."""

SHORT = {"adapter.method": "adapter", "rope.method": "rope"}
"""Settings that are chosen as an option of their group."""

_NAMES_OF_CLASSES = (
    "trainer.optim", "trainer.lr_scheduler_type", "trainer.report_to", "model.attn_implementation",
)  # fmt: skip
"""Texts that must be names: no number, path or class of another package."""
_ON = ("true", "1", "yes", "on")
_OFF = ("false", "0", "no", "off")


def write_as_ours(
    alias: str, key: str, value: str, *, fits: Callable[[str, str], bool], default: str
) -> str:
    """Return `key=value` as it is written here, for `alias=value` of another tool.

    Args:
        alias: what the other tool calls it, in lower case.
        key: the setting here.
        value: as it was typed; empty where nothing was.
        fits: tells whether a text can be a key's value.
        default: the key's, to begin with where the value is none of its own.
    """
    plain = value.strip("'\"").lower()
    ours: str | None
    if alias in VALUES_OF_ALIAS and plain in (*_ON, "4", "8", ""):
        ours = VALUES_OF_ALIAS[alias]
    else:
        ours = translated(key, plain) or _as_it_is(key, value, plain, fits)
    return f"{SHORT.get(key, key)}={ours or EXAMPLES.get(key, default)}"


def nearest(key: str, value: str, allowed: Sequence[str]) -> str | None:
    """Return the allowed value that `value` means: in other tools' words, or as it is spelt."""
    elsewhere = translated(key, value.lower())
    if elsewhere in allowed:
        return elsewhere
    near = get_close_matches(value.lower(), allowed, n=1)
    return near[0] if near else None


def translated(key: str, plain: str) -> str | None:
    """Return what a value of other tools, in lower case, is here; None where nothing is known."""
    switch = "true" if plain in _ON else "false" if plain in _OFF else plain
    known = VALUES.get(key, {})
    return known.get(plain, known.get(switch))


def _as_it_is(key: str, value: str, plain: str, fits: Callable[[str, str], bool]) -> str | None:
    is_name = plain.replace("_", "").isalnum() and plain not in (*_ON, *_OFF)
    if key in _NAMES_OF_CLASSES and not is_name:
        return None
    if key in ("data.columns", "data.roles") and not value.startswith("{"):
        return None
    return value if value and fits(key, value) else None
