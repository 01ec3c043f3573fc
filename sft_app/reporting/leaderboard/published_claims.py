"""What others have published about extension methods, beside what these cells say of it.

Nothing here is tuned until it agrees: each verdict is computed from the points, by the rule that
stands in its sentence.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sft_app.loader.rope.base_bound import base_bound
from sft_app.reporting.leaderboard.measured_points import Trajectory, at_largest_budget
from sft_app.reporting.leaderboard.recovery import Recovery

AGREES, DISAGREES, OPEN = "agrees", "does not agree", "cannot be told"
YARN_TIMES = 10.0
PI_STEPS = 1000
Recoveries = Mapping[tuple[str, int], Recovery]
"""(method, context length) -> its recovery."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A published statement, and what was measured here."""

    source: str
    claim: str
    context_length: int
    measured: str
    verdict: str


def claims(measured: Sequence[Trajectory], recoveries: Recoveries) -> list[Claim]:
    """Hold the published statements against the points, one length after the other."""
    found = []
    for length in sorted({t.context_length for t in measured}):
        group = [t for t in measured if t.context_length == length]
        found += [
            _yarn_faster_than_pi(length, recoveries),
            _pi_in_1000_steps(length, recoveries),
            _tuned_before_untuned(length, group),
            _base_above_bound(length, group),
        ]
    return found


def _yarn_faster_than_pi(length: int, recoveries: Recoveries) -> Claim:
    yarn, linear = (recoveries.get((method, length)) for method in ("yarn", "linear"))
    measured, verdict = "yarn or linear was not measured", OPEN
    if yarn is not None and linear is not None:
        measured = f"yarn {_in_full(yarn)}, linear {_in_full(linear)} tokens"
        if yarn.is_known and yarn.tokens is not None:
            least = linear.tokens.mean if linear.is_known and linear.tokens else linear.most
            ratio = least / yarn.tokens.mean if yarn.tokens.mean else float("inf")
            more = "" if linear.is_known else "at least "
            measured += f": linear takes {more}{ratio:.2g} times as many"
            if linear.is_known or ratio >= YARN_TIMES:
                verdict = AGREES if ratio >= YARN_TIMES else DISAGREES
        elif linear.is_known:
            verdict = DISAGREES
    return Claim(
        source="YaRN, arXiv:2309.00071, abstract",
        claim="needs 10 times fewer tokens than previous methods (agrees: at least 10 times fewer "
        "than linear)",
        context_length=length,
        measured=measured,
        verdict=verdict,
    )


def _pi_in_1000_steps(length: int, recoveries: Recoveries) -> Claim:
    linear = recoveries.get(("linear", length))
    measured, verdict = "linear was not measured", OPEN
    if linear is not None and linear.is_known and linear.steps is not None:
        measured = f"within 1% of the best after {linear.steps:,.0f} steps"
        verdict = AGREES if linear.steps <= PI_STEPS else DISAGREES
    elif linear is not None:
        measured = f"not within 1% of the best after {linear.most:,} tokens, the largest budget"
    return Claim(
        source="Position interpolation, arXiv:2306.15595, abstract",
        claim="fine-tuning within 1,000 steps is enough (agrees: linear recovers in as many; steps "
        "there had 2 to 8 million tokens)",
        context_length=length,
        measured=measured,
        verdict=verdict,
    )


def _tuned_before_untuned(length: int, group: Sequence[Trajectory]) -> Claim:
    tuned = _mean_scores([t for t in group if t.method != "none"], length, when="tuned")
    untuned = _mean_scores(group, length, when="untuned")
    measured, verdict = "no task was measured at this length", OPEN
    if tuned and untuned:
        best, free = (max(scores.items(), key=lambda s: s[1]) for scores in (tuned, untuned))
        measured = f"best tuned: {best[0]} {best[1]:.0%}; best untuned: {free[0]} {free[1]:.0%}"
        if best[1] or free[1]:  # a model that does no task at all says nothing
            verdict = AGREES if best[1] >= free[1] else DISAGREES
    return Claim(
        source="LCEG, arXiv:2409.12181, section 4",
        claim="exact attention fine-tuned comes before what is not tuned (agrees: the best tuned "
        "task score is no lower than the best untuned). That it comes before approximate attention "
        "is not tested: no cell has any",
        context_length=length,
        measured=measured,
        verdict=verdict,
    )


def _base_above_bound(length: int, group: Sequence[Trajectory]) -> Claim:
    """Only methods that leave the form of the rotation alone have a base to speak of."""
    bound = base_bound(length)
    scores = _mean_scores(group, length, when="tuned")
    bases = {t.method: t.theta for t in group if t.method in ("none", "ntk", "abf") and t.theta}
    below = {m: scores[m] for m, theta in bases.items() if theta < bound and m in scores}
    above = {m: scores[m] for m, theta in bases.items() if theta >= bound and m in scores}
    named = ", ".join(f"{m} {bases[m]:,.0f} {scores[m]:.0%}" for m in sorted(bases) if m in scores)
    measured = f"bound {bound:,.0f}; base and task score after tuning: {named or 'none measured'}"
    verdict = OPEN
    if below and above and any(scores.values()):
        verdict = AGREES if min(above.values()) > max(below.values()) else DISAGREES
    return Claim(
        source="Bound on the base, arXiv:2405.14591, figure 1",
        claim="a base below 0.0424 L^1.628 does not retrieve at L (agrees: every base above the "
        "bound scores higher than every base below it)",
        context_length=length,
        measured=measured,
        verdict=verdict,
    )


def recovery_text(found: Recovery) -> str:
    """Return tokens with their spread, or beyond what they lie: `> 98,304`."""
    if found.is_known and found.tokens is not None:
        spread = f" ± {found.tokens.deviation:,.0f}" if found.tokens.deviation else ""
        return f"{found.tokens.mean:,.0f}{spread}"
    return f"> {found.most:,}"


def recovery_note(found: Recovery) -> str:
    """Say of how many seeds that is not so: `1 of 3 seeds got there`."""
    if found.is_known or not found.reached:
        return ""
    return f"{found.reached} of {found.seeds} seeds got there"


def _in_full(found: Recovery) -> str:
    note = recovery_note(found)
    return recovery_text(found) + (f" ({note})" if note else "")


def _mean_scores(group: Sequence[Trajectory], length: int, *, when: str) -> dict[str, float]:
    by_method: dict[str, list[float]] = {}
    for method in {trajectory.method for trajectory in group}:
        own = [trajectory for trajectory in group if trajectory.method == method]
        untuned = [t.untuned for t in own if t.untuned]
        points = at_largest_budget(own) if when == "tuned" else untuned
        by_method[method] = [p.score[length] for p in points if length in p.score]
    return {method: statistics.fmean(scores) for method, scores in by_method.items() if scores}
