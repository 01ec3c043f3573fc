"""Peak memory of this process."""

import resource
import sys

import torch


def peak_memory_bytes() -> tuple[int, int]:
    """Return (host, device): the largest resident set and CUDA memory so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB on Linux
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    device = torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else 0
    return host, device
