"""Speed against what the hardware can do: by its datasheet, and as measured in this process."""

import re
import time
from dataclasses import dataclass

import torch

from sft_app.common.datasheets import DATASHEETS


@dataclass(frozen=True)
class Utilisation:
    """Share of a peak rate (0 to 1) that was spent on the model's own arithmetic."""

    of_datasheet: float | None
    """None for hardware without a datasheet figure, CPUs included."""
    of_measured: float | None
    """Against the matmul rate measured in this process; None when it was not measured."""


def utilisation(
    flops: float, seconds: float, *, datasheet_rate: float | None, measured_rate: float | None
) -> Utilisation:
    """Relate `flops` done by one device in `seconds` to the rates of that device in FLOP/s."""
    achieved = flops / seconds
    return Utilisation(
        of_datasheet=achieved / datasheet_rate if datasheet_rate else None,
        of_measured=achieved / measured_rate if measured_rate else None,
    )


def datasheet_rate(device_name: str) -> float | None:
    """Return dense bfloat16 FLOP/s by a CUDA device's name; None for an unknown one."""
    for sheet in DATASHEETS:
        if re.search(rf"\b{sheet.name}\b", device_name):  # an A4000 is no A40
            return sheet.tflops * 1e12
    return None


def measure_matmul_rate(
    device: torch.device | str, dtype: torch.dtype, seconds: float = 0.5
) -> float:
    """Measure the FLOP/s of square matrix products: the best of those in about `seconds`.

    The best, not the mean: other processes only ever take away from it.
    """
    device = torch.device(device)
    size = 8192 if device.type == "cuda" else 1024
    left = torch.randn(size, size, device=device, dtype=dtype)
    right = torch.randn(size, size, device=device, dtype=dtype)
    product = torch.empty_like(left)
    torch.matmul(left, right, out=product)  # pages, kernels and clocks are warm after it
    best = float("inf")
    deadline = time.perf_counter() + seconds
    while True:
        _wait_for(device)
        started = time.perf_counter()
        torch.matmul(left, right, out=product)
        _wait_for(device)
        best = min(best, time.perf_counter() - started)
        if time.perf_counter() > deadline:
            return 2 * size**3 / best


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
