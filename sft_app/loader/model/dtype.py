"""The dtype of the parameters: what `model.dtype=auto` means on this hardware, and why."""

from dataclasses import dataclass

import torch

from sft_app.config.schema.model import Dtype, ModelConfig


@dataclass(frozen=True)
class DtypePlan:
    """The dtype that parameters are loaded in, and why."""

    value: torch.dtype
    reason: str


def choose_dtype(model_config: ModelConfig, device: torch.device, *, frozen: bool) -> DtypePlan:
    """Choose float32 for parameters that are trained, and 16 bits for frozen ones on a GPU."""
    if model_config.dtype != Dtype.auto:
        reason = f"model.dtype={model_config.dtype.value}"
        if model_config.dtype != Dtype.float32 and not frozen:
            reason += ": small updates are rounded away, which float32 keeps"
        return DtypePlan(getattr(torch, model_config.dtype.value), reason)
    if device.type != "cuda":
        return DtypePlan(torch.float32, "CPUs without matrix units are far slower in bfloat16")
    if not frozen:
        return DtypePlan(torch.float32, "small updates would be rounded away in 16 bits")
    if torch.cuda.get_device_capability(device) >= (8, 0):
        return DtypePlan(torch.bfloat16, "frozen, and this GPU has bfloat16 tensor cores")
    return DtypePlan(torch.float32, "this GPU has no bfloat16 tensor cores")
