"""Ranks that did different things, and go on only if all of them succeeded."""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from sft_app.common import ranks


def raise_together(error: Exception | None) -> None:
    """Raise on every rank what any has met, of several the lowest rank's; a collective.

    A rank with an error of its own raises that one.
    """
    found: list[Exception | None] = [error]
    if ranks.is_distributed():
        found = [None] * ranks.world_size()
        dist.all_gather_object(found, _portable(error))
    if error is not None:
        raise error
    for other in found:
        if other is not None:
            raise other


@contextmanager
def succeeding_together(together: bool = True) -> Iterator[None]:
    """Let no rank go beyond this block when it has failed on any; a collective, if `together`."""
    error: Exception | None = None
    try:
        yield
    except Exception as failed:
        error = failed
    if together:
        raise_together(error)
    elif error is not None:
        raise error


def _portable(error: Exception | None) -> Exception | None:
    """Return what can be sent: the error itself, or its words."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__} on rank {ranks.rank()}: {error}")
    return error
