"""Whether the loss of a step is a spike: far above those of the steps before it.

PaLM (arXiv 2204.02311, section 5.1) met such spikes with clipped gradients as well; going back to a
checkpoint from before and leaving out the batches that were seen until then ended them. The rule is
OLMo-core's: so many standard deviations above the mean of a window of steps.
"""

import dataclasses
import math
import statistics
from collections import deque
from dataclasses import dataclass
from typing import Any

from sft_app.config.schema.trainer import OnLossSpike
from sft_app.records.result import Rewind

KEY = "LossSpikes"
"""Where a checkpoint's trainer_state.json keeps the window, among what callbacks keep there."""


@dataclass(frozen=True, kw_only=True)
class SpikeRule:
    """What a spike is, and what follows: `trainer.on_loss_spike` and the keys beside it."""

    action: OnLossSpike = OnLossSpike.ignore
    threshold: float = 6.0
    """Standard deviations above the mean."""
    window: int = 128
    """Steps that are compared with."""
    max_rewinds: int = 3


@dataclass(frozen=True, kw_only=True)
class Spike:
    """A step's loss, and what the steps before let expect."""

    loss: float
    mean: float
    deviation: float
    """Standard deviation over the window."""

    def __str__(self) -> str:
        """Say how far it is away."""
        return (
            f"its loss is {self.loss:.4g}, where {self.mean:.4g} with a standard deviation of "
            f"{self.deviation:.2g} was usual"
        )


class LossSpikes:
    """The losses of the last steps, of all ranks together, and how often training went back.

    It is told the same on every rank, and so comes to the same conclusion. What it knows is kept in
    each checkpoint: a run that goes on from there judges as one that was never interrupted.
    """

    def __init__(self, rule: SpikeRule) -> None:
        """Know of no step yet."""
        self.rule = rule
        self.rewinds: list[Rewind] = []
        self._window: deque[float] = deque(maxlen=rule.window)

    @property
    def watches(self) -> bool:
        """Tell whether anything follows from a spike."""
        return self.rule.action is not OnLossSpike.ignore

    def judge(self, loss: float) -> Spike | None:
        """Return the spike that a step's loss is; any other loss is one to compare with."""
        if self.watches and len(self._window) == self.rule.window:
            mean, deviation = statistics.fmean(self._window), statistics.stdev(self._window)
            if loss > mean + self.rule.threshold * deviation:
                return Spike(loss=loss, mean=mean, deviation=deviation)
        self._window.append(loss)
        return None

    def may_rewind(self) -> bool:
        """Tell whether training has gone back less often than it may."""
        return len(self.rewinds) < self.rule.max_rewinds

    def as_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        rewinds = [dataclasses.asdict(rewind) for rewind in self.rewinds]
        return {"window": list(self._window), "rewinds": rewinds}

    def restore(self, kept: dict[str, Any]) -> None:
        """Go on from what a checkpoint has kept; one without it keeps nothing."""
        window = [loss for loss in kept.get("window", []) if math.isfinite(loss)]
        self._window = deque(window, maxlen=self.rule.window)
        self.rewinds = [Rewind(**rewind) for rewind in kept.get("rewinds", [])]
