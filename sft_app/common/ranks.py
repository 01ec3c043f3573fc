"""Is there a process group, and which rank am I: asked here, and nowhere else.

A process without a group is rank 0 of 1. Imports torch: not for the process that composes.
"""

import torch.distributed as dist


def has_group() -> bool:
    """Tell whether this process has joined a process group."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Return this process's rank; 0 without a process group."""
    return dist.get_rank() if has_group() else 0


def world_size() -> int:
    """Return the number of ranks; 1 without a process group."""
    return dist.get_world_size() if has_group() else 1


def is_main() -> bool:
    """Tell whether this is rank 0, which alone writes files and logs decisions."""
    return rank() == 0


def is_distributed() -> bool:
    """Tell whether there are other ranks."""
    return world_size() > 1


def barrier() -> None:
    """Wait until every rank has come here; does nothing in a process that is alone."""
    if is_distributed():
        dist.barrier()
