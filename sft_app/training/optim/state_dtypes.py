"""An optimizer's state as it was saved, where PyTorch gives it the dtype of its parameters.

Adafactor keeps float32 statistics of bfloat16 weights. `Optimizer.load_state_dict` rounds them to
bfloat16 when a run goes on, or goes back to a checkpoint.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def keep_dtypes(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Put back what was rounded of `saved`, a `state_dict()` that `optimizer` has taken over."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    numbers = [number for group in saved["param_groups"] for number in group["params"]]
    for parameter, number in zip(parameters, numbers, strict=True):
        own = optimizer.state.get(parameter, {})
        for name, value in saved["state"].get(number, {}).items():
            taken = own.get(name)
            if not isinstance(value, Tensor) or not isinstance(taken, Tensor):
                continue
            if taken.is_floating_point() and taken.dtype != value.dtype:
                own[name] = value.to(taken.device)
