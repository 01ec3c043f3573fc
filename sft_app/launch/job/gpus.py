"""How many GPUs this process may use, found out without importing torch."""

import os
from pathlib import Path


def count_visible_gpus(devices: Path = Path("/dev")) -> int:
    """Count the entries of CUDA_VISIBLE_DEVICES, or the NVIDIA devices that the machine shows."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([entry for entry in visible.split(",") if entry.strip() not in ("", "-1")])
    return len([d for d in devices.glob("nvidia[0-9]*") if d.name.removeprefix("nvidia").isdigit()])
