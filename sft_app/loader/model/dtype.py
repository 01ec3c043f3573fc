"""Parameter dtype and attention kernel: what `auto` means on this hardware, and why."""

from dataclasses import dataclass
from importlib.util import find_spec

import torch
from transformers import PretrainedConfig

from sft_app.config.schema.model import Dtype, ModelConfig


@dataclass(frozen=True)
class DtypeChoice:
    value: torch.dtype
    reason: str


@dataclass(frozen=True)
class AttentionChoice:
    value: str | None
    """None: transformers' own default."""
    reason: str


def choose_dtype(model: ModelConfig, device: torch.device, *, frozen: bool) -> DtypeChoice:
    """Of the parameters: float32 for those that are trained; 16 bits for frozen ones, on a GPU."""
    if model.dtype != Dtype.auto:
        reason = f"model.dtype={model.dtype.value}"
        if model.dtype != Dtype.float32 and not frozen:
            reason += ": small updates are rounded away, which float32 keeps"
        return DtypeChoice(getattr(torch, model.dtype.value), reason)
    if device.type != "cuda":
        return DtypeChoice(torch.float32, "CPUs without matrix units are far slower in bfloat16")
    if not frozen:
        return DtypeChoice(torch.float32, "small updates would be rounded away in 16 bits")
    if torch.cuda.get_device_capability(device) >= (8, 0):
        return DtypeChoice(torch.bfloat16, "frozen, and this GPU has bfloat16 tensor cores")
    return DtypeChoice(torch.float32, "this GPU has no bfloat16 tensor cores")


def choose_attention(
    model: ModelConfig, config: PretrainedConfig, dtype: torch.dtype, device: torch.device
) -> AttentionChoice:
    """The attention implementation to load with."""
    if model.attn_implementation != "auto":
        name = model.attn_implementation
        return AttentionChoice(name, f"model.attn_implementation={name}")
    text = config.get_text_config(decoder=True)
    if getattr(text, "attn_logit_softcapping", None):
        # SDPA has no soft cap and would leave it out without a word.
        return AttentionChoice("eager", "the model caps attention logits, which SDPA cannot")
    half = dtype in (torch.bfloat16, torch.float16)
    if device.type == "cuda" and half and find_spec("flash_attn") is not None:
        return AttentionChoice("flash_attention_2", "flash-attn is installed")
    return AttentionChoice(None, "SDPA where the model supports it, else eager")
