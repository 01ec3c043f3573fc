"""What is known of a checkpoint's tensor before its numbers are read."""

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class TensorHeader:
    """What a file says of one tensor."""

    dtype: str
    """As safetensors writes it: F32, BF16, F8_E4M3, U8, ..."""
    shape: tuple[int, ...]
    file: str
    """Below the checkpoint's folder."""

    @property
    def num_elements(self) -> int:
        """Return how many numbers the tensor holds."""
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int | None:
        """Return how many bytes the tensor takes in a file; None for a dtype that is not known."""
        dtype = TORCH_DTYPES.get(self.dtype)
        return None if dtype is None else self.num_elements * dtype.itemsize


Headers = dict[str, TensorHeader]


@dataclass(frozen=True)
class NoHeaders:
    """Why there is nothing to look at before the weights are read."""

    reason: str


TORCH_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
"""Names of safetensors."""

DTYPE_NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}

FLOATING = ("F64", "F32", "F16", "BF16")
"""Numbers that weights are trained from as they are."""
