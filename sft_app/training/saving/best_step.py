"""Which step had the lowest held-out loss, and whether training should end: read off the log.

The log of a run stands in each checkpoint, so that a resumed run knows what was measured before.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

EVAL_LOSS = "eval_loss"
"""Key of a measurement in the Trainer's log."""


@dataclass(frozen=True, order=True)
class Measured:
    """Held-out loss after one step; sorts by loss, and the earlier step first."""

    loss: float
    step: int


def measurements(log_history: Iterable[Mapping[str, Any]]) -> list[Measured]:
    """Return what was measured, in the order in which it was."""
    return [
        Measured(float(entry[EVAL_LOSS]), int(entry["step"]))
        for entry in log_history
        if EVAL_LOSS in entry
    ]


def best_of(measured: Iterable[Measured]) -> Measured | None:
    """Return the lowest loss, the first of several; None where nothing was measured."""
    return min(measured, default=None)


def has_stopped_improving(measured: list[Measured], patience: int | None) -> bool:
    """Tell whether the last `patience` measurements were no lower than the lowest before them."""
    best = best_of(measured)
    if patience is None or best is None:
        return False
    return len(measured) - 1 - measured.index(best) >= patience
