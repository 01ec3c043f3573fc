"""How many tokens of tuning a method needs until the new length is read as well as it ever will."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sft_app.reporting.leaderboard.measured_points import Trajectory
from sft_app.reporting.sweep.seed_groups import Spread, spread

CLOSE = 0.01
"""Within this share of the best perplexity, a method has recovered."""


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """Tokens until perplexity at the new length is within CLOSE of the best, over seeds."""

    tokens: Spread | None
    """Over the seeds that got there; None where none did."""
    steps: float | None
    """The mean of these tokens in optimizer steps."""
    reached: int
    seeds: int
    most: int
    """Tokens of the largest budget."""

    @property
    def is_known(self) -> bool:
        """Tell whether every seed got there within the largest budget."""
        return self.reached == self.seeds and self.tokens is not None


def recovery(of_method: Sequence[Trajectory], all_methods: Sequence[Trajectory]) -> Recovery:
    """Measure the recovery of one method at one length.

    The best is the lowest perplexity at that length that any of `all_methods` reached with the same
    seed and any budget. Between two budgets the loss is taken to be linear in tokens.
    """
    found: list[float | None] = []
    steps: list[float] = []
    for own in of_method:
        best = best_loss([t for t in all_methods if t.seed == own.seed])
        tokens = None if best is None else tokens_until(_curve(own), best + math.log1p(CLOSE))
        found.append(tokens)
        last = own.tuned
        if tokens is not None and last is not None and last.steps:
            steps.append(tokens * last.steps / last.tokens)
    return Recovery(
        tokens=spread(found),
        steps=sum(steps) / len(steps) if steps else None,
        reached=sum(tokens is not None for tokens in found),
        seeds=len(found),
        most=max((t.points[-1].tokens for t in of_method if t.points), default=0),
    )


def best_loss(group: Sequence[Trajectory]) -> float | None:
    """Return the lowest loss at the trained length that any point has."""
    losses = [loss for trajectory in group for _, loss in _curve(trajectory)]
    return min(losses, default=None)


def tokens_until(curve: Sequence[tuple[int, float]], target: float) -> float | None:
    """Return the tokens at which a curve of (tokens, loss) first comes down to `target`.

    None when it does not.
    """
    before: tuple[int, float] | None = None
    for tokens, loss in curve:
        if loss <= target:
            if before is None:
                return float(tokens)
            share = (before[1] - target) / (before[1] - loss)
            return before[0] + share * (tokens - before[0])
        before = (tokens, loss)
    return None


def _curve(trajectory: Trajectory) -> list[tuple[int, float]]:
    length = trajectory.context_length
    return [(p.tokens, p.loss[length]) for p in trajectory.points if length in p.loss]
