"""The leaderboard's rows: a method at a length, over its seeds."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sft_app.reporting.leaderboard.measured_points import Point, Trajectory, at_largest_budget
from sft_app.reporting.leaderboard.published_claims import Recoveries
from sft_app.reporting.leaderboard.recovery import Recovery, recovery
from sft_app.reporting.leaderboard.significance import Pair, compare_methods
from sft_app.reporting.sweep.seed_groups import Spread, spread

PointMeasure = Callable[[Point], float | None]


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What a method came to at a length: means with the spread over seeds."""

    method: str
    context_length: int
    factor: float | None
    seeds: int
    """Those of the largest budget, over which the tuned means are."""
    seeds_in_all: int
    """With those that have come to a smaller budget alone, or to none."""
    tokens: int
    """Of the largest budget that the method has come to."""
    recovery: Recovery
    loss_untuned: Spread | None
    loss_tuned: Spread | None
    """At the new length, nats a token."""
    score_untuned: Spread | None
    score_tuned: Spread | None
    """At the new length, mean over the tasks."""
    effective_length: Spread | None
    window_loss_untuned: Spread | None
    window_loss_tuned: Spread | None
    window_score_untuned: Spread | None
    window_score_tuned: Spread | None
    """Inside the window that the model was pre-trained for."""
    score_beyond: Spread | None
    """At twice the new length."""
    seconds: Spread | None
    memory: Spread | None
    differs_from_best: bool | None
    """Whether its tuned loss at the new length differs from the lowest by more than the spread over
    seeds explains; None: it is the lowest, or one seed says nothing."""


@dataclass(frozen=True, kw_only=True)
class LengthBoard:
    """The methods at one length, the lowest tuned loss first."""

    context_length: int
    window: int | None
    standings: list[Standing]
    loss_pairs: list[Pair]
    """Every pair of methods by tuned loss at this length."""
    score_pairs: list[Pair]
    """The same by tuned score."""


def build_boards(measured: Sequence[Trajectory]) -> list[LengthBoard]:
    """Build one board a length, shortest first."""
    lengths = sorted({t.context_length for t in measured})
    return [_board(n, [t for t in measured if t.context_length == n]) for n in lengths]


def _board(length: int, group: Sequence[Trajectory]) -> LengthBoard:
    losses = _tuned_values(group, lambda p: p.loss.get(length))
    pairs = compare_methods(losses)
    found = [
        _standing(method, [t for t in group if t.method == method], group, pairs, losses)
        for method in sorted({t.method for t in group})
    ]
    found.sort(key=_tuned_loss)
    return LengthBoard(
        context_length=length,
        window=_window(group),
        standings=found,
        loss_pairs=pairs,
        score_pairs=compare_methods(_tuned_values(group, lambda p: p.score.get(length))),
    )


def _tuned_loss(standing: Standing) -> float:
    """Of what diverged, or was not tuned: beyond every other, for NaN has no place in an order."""
    loss = standing.loss_tuned
    return loss.mean if loss is not None and math.isfinite(loss.mean) else math.inf


def _window(group: Sequence[Trajectory]) -> int | None:
    """Return the tokens of pre-training, which one model has: a cell's plan may be missing."""
    return next((t.window for t in group if t.window is not None), None)


def recoveries(boards: Iterable[LengthBoard]) -> Recoveries:
    """Return every recovery by method and length."""
    return {(s.method, s.context_length): s.recovery for board in boards for s in board.standings}


def _standing(
    method: str,
    own: Sequence[Trajectory],
    group: Sequence[Trajectory],
    pairs: Sequence[Pair],
    losses: dict[str, list[float]],
) -> Standing:
    length, window = own[0].context_length, _window(group)
    tuned = at_largest_budget(own)
    untuned = [t.untuned for t in own if t.untuned]
    inside = window or 0
    return Standing(
        method=method,
        context_length=length,
        factor=length / window if window else None,
        seeds=len(tuned),
        seeds_in_all=len(own),
        tokens=max((point.tokens for point in tuned), default=0),
        recovery=recovery(own, group),
        loss_untuned=_over(untuned, lambda p: p.loss.get(length)),
        loss_tuned=_over(tuned, lambda p: p.loss.get(length)),
        score_untuned=_over(untuned, lambda p: p.score.get(length)),
        score_tuned=_over(tuned, lambda p: p.score.get(length)),
        effective_length=_over(tuned, lambda p: p.effective_length or 0 if p.score else None),
        window_loss_untuned=_over(untuned, lambda p: p.loss.get(inside)),
        window_loss_tuned=_over(tuned, lambda p: p.loss.get(inside)),
        window_score_untuned=_over(untuned, lambda p: p.score.get(inside)),
        window_score_tuned=_over(tuned, lambda p: p.score.get(inside)),
        score_beyond=_over(tuned, lambda p: p.score.get(2 * length)),
        seconds=_over(tuned, lambda p: p.seconds),
        memory=_over(tuned, lambda p: p.memory),
        differs_from_best=_differs_from_best(method, pairs, losses),
    )


def _differs_from_best(
    method: str, pairs: Sequence[Pair], losses: dict[str, list[float]]
) -> bool | None:
    if method not in losses:
        return None
    best = min(losses, key=lambda name: sum(losses[name]) / len(losses[name]))
    mine = [pair for pair in pairs if {pair.first, pair.second} == {best, method}]
    return mine[0].differs if mine and not math.isnan(mine[0].p) else None


def _tuned_values(group: Sequence[Trajectory], measure: PointMeasure) -> dict[str, list[float]]:
    """Return method -> one value for each seed, of the methods that came to the largest budget.

    What one method is with less training says nothing of how it differs from another.
    """
    points = {
        method: at_largest_budget(t for t in group if t.method == method)
        for method in sorted({t.method for t in group})
    }
    tuned = [point for of_method in points.values() for point in of_method]
    largest = max(tuned, key=lambda point: point.tokens, default=None)
    found = {
        method: [v for p in of_method if (v := measure(p)) is not None and math.isfinite(v)]
        for method, of_method in points.items()
        if largest is not None and all(point.budget == largest.budget for point in of_method)
    }
    return {method: values for method, values in found.items() if values}


def _over(points: Sequence[Point], measure: PointMeasure) -> Spread | None:
    return spread(measure(point) for point in points)
