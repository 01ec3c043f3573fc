"""The leaderboard's arithmetic: recovery, tests and claims, from points made up by hand."""

import math
from collections.abc import Sequence

import pytest

from sft_app.loader.rope.base_bound import base_bound
from sft_app.reporting.leaderboard.board_texts import board_table
from sft_app.reporting.leaderboard.leaderboard_table import build_boards
from sft_app.reporting.leaderboard.measured_points import Point, Trajectory
from sft_app.reporting.leaderboard.published_claims import (
    AGREES,
    DISAGREES,
    OPEN,
    claims,
)
from sft_app.reporting.leaderboard.recovery import Recovery, recovery, tokens_until
from sft_app.reporting.leaderboard.significance import compare_methods, holm, welch_p

LENGTH = 512


def trajectory(
    method: str, losses: Sequence[float], *, seed: int = 1, score: float = 0.5, theta: float = 1e4
) -> Trajectory:
    """Losses at 0, 1,000, 2,000 ... tokens, a step each 100."""
    points = [
        Point(
            tokens=1000 * n, budget=(f"{10 * n} steps",), steps=10 * n, loss={LENGTH: loss},
            score={LENGTH: score}, effective_length=LENGTH, seconds=1.0 * n, memory=None,
        )
        for n, loss in enumerate(losses)
    ]  # fmt: skip
    return Trajectory(
        method=method, context_length=LENGTH, window=128, theta=theta, seed=seed, points=points
    )


def test_a_target_between_two_budgets_is_interpolated() -> None:
    curve = [(0, 5.0), (1000, 4.0), (2000, 3.0)]
    assert tokens_until(curve, 3.25) == 1750
    assert tokens_until(curve, 5.0) == 0
    assert tokens_until(curve, 2.9) is None


def test_recovery_is_within_one_per_cent_of_the_best_perplexity_of_any_method() -> None:
    best = 3.0
    yarn = trajectory("yarn", [3.1, best, best])
    linear = trajectory("linear", [5.0, 4.0, best + math.log(1.01)])
    never = trajectory("none", [6.0, 5.0, 4.0])
    group = [yarn, linear, never]
    fast, slow, lost = (recovery([t], group) for t in group)
    assert fast.tokens is not None and slow.tokens is not None
    assert fast.tokens.mean == pytest.approx(1000 * (0.1 - math.log(1.01)) / 0.1)
    assert slow.tokens.mean == pytest.approx(2000)
    assert slow.steps == pytest.approx(20)
    assert not lost.is_known
    assert (lost.reached, lost.seeds, lost.most) == (0, 1, 2000)


def verdicts(group: Sequence[Trajectory]) -> dict[str, str]:
    found: dict[tuple[str, int], Recovery] = {}
    for method in {t.method for t in group}:
        found[method, LENGTH] = recovery([t for t in group if t.method == method], group)
    return {claim.source.partition(",")[0]: claim.verdict for claim in claims(group, found)}


def test_verdicts_follow_from_the_points_and_nothing_else() -> None:
    fast = trajectory("yarn", [3.01, 3.0, 3.0])
    slow = trajectory("linear", [5.0, 4.0, 3.0])
    assert verdicts([fast, slow])["YaRN"] == AGREES
    assert verdicts([trajectory("yarn", [5.0, 4.0, 3.0]), slow])["YaRN"] == DISAGREES
    assert verdicts([fast, trajectory("linear", [6.0, 5.0, 4.0])])["Position interpolation"] == OPEN
    assert verdicts([fast, slow])["Position interpolation"] == AGREES


def test_a_bound_is_tested_only_by_bases_on_both_sides() -> None:
    """0.0424 * 512^1.628, worked out by hand: 0.0424 * e^(1.628 * 6.2383) = 1,094."""
    assert base_bound(512) == pytest.approx(1094, rel=1e-2)
    assert base_bound(32768) == pytest.approx(9.5e5, rel=0.02), "the fit, not the table's 6.4e5"
    below = trajectory("none", [3.0, 3.0], score=0.1, theta=1000)
    above = trajectory("abf", [3.0, 3.0], score=0.9, theta=5e5)
    assert verdicts([below, above])["Bound on the base"] == AGREES
    assert verdicts([above])["Bound on the base"] == OPEN


def test_a_model_that_does_no_task_agrees_with_nothing() -> None:
    below = trajectory("none", [3.0, 3.0], score=0.0, theta=1000)
    above = trajectory("abf", [3.0, 3.0], score=0.0, theta=5e5)
    found = verdicts([below, above])
    assert (found["LCEG"], found["Bound on the base"]) == (OPEN, OPEN)


def test_p_values_are_adjusted_by_holms_rule() -> None:
    """Holm 1979: the smallest times 3, the next times 2, each no smaller than the one before."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    adjusted = holm([math.nan, 0.01])
    assert math.isnan(adjusted[0])
    assert adjusted[1] == 0.01


def test_a_difference_counts_only_beyond_the_spread_over_seeds() -> None:
    pytest.importorskip("scipy", reason="the extra leaderboard is not installed")
    pairs = compare_methods(
        {"linear": [4.0, 4.01, 4.02], "ntk": [3.0, 4.0, 5.0], "yarn": [3.0, 3.01, 3.02]}
    )
    found = {(pair.first, pair.second): pair.differs for pair in pairs}
    assert found == {
        ("linear", "ntk"): False, ("linear", "yarn"): True, ("ntk", "yarn"): False,
    }  # fmt: skip
    assert math.isnan(welch_p([1.0], [2.0, 3.0])), "one seed has no spread"


@pytest.mark.filterwarnings("error")
def test_scores_that_no_seed_changes_are_not_called_certain() -> None:
    """Of 60 samples, 52 are often answered twice; a sum's last digits are no spread."""
    pytest.importorskip("scipy", reason="the extra leaderboard is not installed")
    twice = [52 / 60, math.nextafter(52 / 60, 1)]
    assert math.isnan(welch_p(twice, [0.0, 0.0]))
    assert welch_p(twice, [52 / 60, 52 / 60]) == 1.0
    assert 0.05 < welch_p(twice, [0.8, 0.9]) < 1
    pairs = compare_methods({"drope": [0.0, 0.0], "yarn": twice})
    assert not pairs[0].differs


def test_welch_agrees_with_the_formulas_worked_out_by_hand() -> None:
    """Two samples of unequal variances.

    t = (2 - 5) / sqrt(1/3 + 4/3) = -2.3238; degrees of freedom (5/3)^2 / (1/18 + 16/18) = 2.9412.
    """
    pytest.importorskip("scipy", reason="the extra leaderboard is not installed")
    assert welch_p([1.0, 2.0, 3.0], [3.0, 5.0, 7.0]) == pytest.approx(0.10448, abs=1e-4)


def test_a_seed_without_the_largest_budget_is_no_part_of_the_mean_after_it() -> None:
    """Its largest cell ran out of memory, or is still to be run."""
    pytest.importorskip("scipy", reason="the extra leaderboard is not installed")
    linear = [[5.0, 4.0, 3.0], [5.0, 4.0], [5.0, 4.0, 3.1]]
    yarn = [[4.0, 3.3], [4.0, 3.4], [4.0, 3.5]]
    group = [
        trajectory(method, losses, seed=seed)
        for method, seeds in (("linear", linear), ("yarn", yarn))
        for seed, losses in enumerate(seeds)
    ]
    (board,) = build_boards(group)
    first, second = board.standings
    assert (first.method, first.seeds, first.seeds_in_all, first.tokens) == ("linear", 2, 3, 2000)
    assert first.loss_tuned is not None and first.seconds is not None
    assert first.loss_tuned.mean == pytest.approx(3.05)
    assert first.seconds.mean == 2.0
    assert (second.method, second.seeds, second.tokens) == ("yarn", 3, 1000)
    assert not board.loss_pairs, "half the training is not compared with the whole"
    seeds = [row.values[0] for row in board_table(board).rows]
    assert [(value.text, value.note) for value in seeds] == [
        ("2 of 3", ""), ("3", "1,000 tokens only"),
    ]  # fmt: skip


def test_what_diverged_comes_last_and_hides_no_better_one() -> None:
    pytest.importorskip("scipy", reason="the extra leaderboard is not installed")
    losses = {"linear": 3.0, "none": math.nan, "yarn": 2.0}
    (board,) = build_boards([trajectory(method, [5.0, loss]) for method, loss in losses.items()])
    assert [standing.method for standing in board.standings] == ["yarn", "linear", "none"]
