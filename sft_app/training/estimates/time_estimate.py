"""How long training will take, said before it starts."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sft_app.training.metrics.flops import ModelShape, flops_of_batch

SHARE_OF_MATMUL_RATE = 0.4
"""What a training step usually reaches of the rate of bare matrix products."""


@dataclass(frozen=True, kw_only=True)
class TimeEstimate:
    """Wall time of training, and the rate that it was reckoned with."""

    seconds: float
    matmul_rate: float
    """FLOP/s of one process, as measured."""

    def __str__(self) -> str:
        """Say it in a line of the log."""
        return (
            f"about {timedelta(seconds=round(self.seconds))} at "
            f"{self.matmul_rate / 1e9:,.0f} GFLOP/s of matrix products measured here"
        )


def estimate_time(
    shape: ModelShape,
    *,
    matmul_rate: float,
    documents: Sequence[int],
    supervised_share: float,
    passes: float,
) -> TimeEstimate:
    """Estimate `passes` over the data through one process; `documents`: tokens of each."""
    supervised = int(sum(documents) * supervised_share)
    flops = flops_of_batch(shape, documents, supervised) * passes
    return TimeEstimate(
        seconds=flops / (SHARE_OF_MATMUL_RATE * matmul_rate), matmul_rate=matmul_rate
    )
