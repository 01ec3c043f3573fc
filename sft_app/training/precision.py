"""In which numbers a run keeps its weights, computes with them, and saves them.

AdamW moves a weight by about the learning rate, and bfloat16 tells a weight of 0.02 from the next
only at a distance of 0.0001: at usual rates most of its steps would be rounded away (Micikevicius
et al. 2018, arXiv:1710.03740, section 3.1). So weights that are all trained are kept in float32 and
multiplied in 16 bits, and what is saved has the checkpoint's own dtype again. Frozen weights, below
an adapter, do not move.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from sft_app.compat import model_internals
from sft_app.config.schema.adapter import AdapterMethod
from sft_app.config.schema.app import AppConfig
from sft_app.config.schema.model import Dtype
from sft_app.config.schema.trainer import Parallelism
from sft_app.loader.checkpoint.weights_plan import WeightsPlan
from sft_app.loader.model.dtype import choose_dtype, rounded
from sft_app.training.arguments import wants_bf16


@dataclass(frozen=True)
class Precision:
    """The dtypes of a run."""

    parameters: torch.dtype
    compute: torch.dtype
    """Of matrix products and attention."""
    saved: torch.dtype
    reason: str
    float32_names: tuple[str, ...] = ()
    """Parameters that stay in float32 among 16 bits, as in the checkpoint: routers, mostly."""
    rounded: int = 0
    """The same, where they are rounded."""

    def __str__(self) -> str:
        """Say it in a line of the log."""
        line = (
            f"precision       parameters {name_of(self.parameters)} ({self.reason}), computed in "
            f"{name_of(self.compute)}, saved in {name_of(self.saved)}"
        )
        if self.float32_names:
            line += f"; {len(self.float32_names):,} tensors stay float32, as in the checkpoint"
        if self.rounded:
            line += (
                f"\n{'WARNING':<16}{self.rounded:,} tensors that the checkpoint has in float32 are "
                f"rounded to {name_of(self.parameters)}: mixed precision (trainer.bf16=true), and "
                "no FSDP over them, would keep them"
            )
        return line

    def as_dict(self) -> dict[str, Any]:
        """Return what stands in plan.json."""
        return {
            "parameters": name_of(self.parameters),
            "compute": name_of(self.compute),
            "saved": name_of(self.saved),
            "reason": self.reason,
            "float32": list(self.float32_names),
            "rounded": self.rounded,
        }

    def computing(self, device: torch.device) -> AbstractContextManager[object]:
        """Compute as the Trainer does a step: mixed precision where the two dtypes differ.

        From the first call on stacked experts follow it, too, in the whole process.
        """
        model_internals.experts_follow_autocast()
        mixed = self.compute != self.parameters or bool(self.float32_names)
        return torch.autocast(device.type, dtype=self.compute if mixed else None, enabled=mixed)


def plan_precision(
    config: AppConfig, pretrained: PretrainedConfig, weights: WeightsPlan, device: torch.device
) -> Precision:
    """Choose from the configuration and the device, before weights are loaded."""
    frozen = config.adapter.method is not AdapterMethod.none
    choice = choose_dtype(config.model, device, frozen=frozen)
    compute = choice.value
    if wants_bf16(config, use_cpu=device.type == "cpu"):
        compute = torch.bfloat16
    elif config.trainer.fp16:
        compute = torch.float16
    stated = pretrained.dtype if isinstance(pretrained.dtype, torch.dtype) else None
    own = weights.dtype or stated or choice.value  # config.json may not say, or not know
    saved = own if config.model.dtype is Dtype.auto else choice.value
    wide = _wide_parameters(weights, choice.value)
    # A float32 matrix meets 16-bit inputs: what multiplies them is mixed precision. And FSDP
    # gathers what it trains together in one dtype.
    mixed = wants_bf16(config, use_cpu=device.type == "cpu") or config.trainer.fp16
    fits = mixed and (frozen or config.trainer.parallelism is not Parallelism.fsdp)
    return Precision(
        choice.value,
        compute,
        saved,
        choice.reason,
        float32_names=wide if fits else (),
        rounded=0 if fits else len(wide),
    )


def _wide_parameters(weights: WeightsPlan, loaded: torch.dtype) -> tuple[str, ...]:
    """Name what the checkpoint has in float32 among fewer bits, if the rest is loaded in those."""
    if loaded is torch.float32:
        return ()
    return tuple(n for n, own in weights.tensor_dtypes.items() if own is torch.float32)


def compute_dtype(model: PreTrainedModel, device: torch.device | None = None) -> torch.dtype:
    """Return the dtype of matrix products if the model is called now, on `device` (None: its)."""
    kind = (device or model.device).type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else model.dtype


@torch.no_grad()
def round_weights(
    model: nn.Module, dtype: torch.dtype, exceptions: Mapping[str, torch.dtype]
) -> None:
    """Round to what will be saved, in place, so that what is measured then is that.

    `exceptions`: parameters, by name, that are saved in another dtype than `dtype`. Raises
    ConfigError for a number that is too large for the one that it is saved in.
    """
    for name, parameter in model.named_parameters():
        parameter.copy_(rounded(parameter, exceptions.get(name, dtype), name))


def name_of(dtype: torch.dtype) -> str:
    """Return the name without its module, as in "bfloat16"."""
    return str(dtype).removeprefix("torch.")
