"""The dtype of the parameters: what `model.dtype=auto` means on this hardware, and why."""

from dataclasses import dataclass

import torch

from sft_app.config.schema.model import Dtype, ModelConfig


@dataclass(frozen=True)
class DtypePlan:
    value: torch.dtype
    reason: str


def choose_dtype(model: ModelConfig, device: torch.device, *, frozen: bool) -> DtypePlan:
    """Of the parameters: float32 for those that are trained; 16 bits for frozen ones, on a GPU."""
    if model.dtype != Dtype.auto:
        reason = f"model.dtype={model.dtype.value}"
        if model.dtype != Dtype.float32 and not frozen:
            reason += ": small updates are rounded away, which float32 keeps"
        return DtypePlan(getattr(torch, model.dtype.value), reason)
    if device.type != "cuda":
        return DtypePlan(torch.float32, "CPUs without matrix units are far slower in bfloat16")
    if not frozen:
        return DtypePlan(torch.float32, "small updates would be rounded away in 16 bits")
    if torch.cuda.get_device_capability(device) >= (8, 0):
        return DtypePlan(torch.bfloat16, "frozen, and this GPU has bfloat16 tensor cores")
    return DtypePlan(torch.float32, "this GPU has no bfloat16 tensor cores")
