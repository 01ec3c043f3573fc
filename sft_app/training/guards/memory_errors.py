"""Know an error that says that memory ran out."""

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Know CUDA's and the CPU allocator's own words for it; torch has a type for CUDA only."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    words = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDA error: out of memory")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)
