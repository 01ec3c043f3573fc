"""Numbers that are NaN or infinite, counted at the price of one pass."""

import torch
from torch import Tensor


def count_nonfinite(tensor: Tensor) -> int:
    """Return how many of a floating-point tensor's numbers are NaN or infinite."""
    # One pass without a copy: what sums up to a finite number has no other in it.
    if tensor.sum(dtype=torch.float32).isfinite():
        return 0
    return int((~tensor.isfinite()).sum())
