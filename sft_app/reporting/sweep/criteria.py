"""What the settings of a sweep are ranked by: the measurement, its direction, and what is a tie."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from sft_app.config.schema.sweep import BestBy
from sft_app.reporting.page import format_values
from sft_app.reporting.run.long_context import cliff, scored_effective_length
from sft_app.reporting.sweep.cells import CellRecord
from sft_app.reporting.sweep.seed_groups import Measure

ONE_SEED_DIFFERENCE = 0.01
"""Of the perplexity: less than what another seed usually changes, so no winner on one seed."""
ONE_SEED_POINTS = 0.05
"""Of a mean score: with some tens of samples a length, chance alone moves it as much."""


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """Holds what is compared between settings, and the rule in words."""

    measured: str
    """What is compared: `perplexity at 32,768 tokens`."""
    rule: str
    """In a sentence or two, without what is said about seeds."""
    one_seed_rule: str
    """What is a tie where every setting has one seed."""
    measure: Measure
    before: Measure
    """The same before training."""
    as_text: format_values.Formatter
    higher_is_better: bool
    gap: Callable[[float, float], float]
    """(best, other) -> by how much the other is worse."""
    gap_text: Callable[[float], str]
    least_gap: float
    """On one seed, a smaller gap is a tie."""
    length: int | None = None
    """Tokens, where one length is compared."""

    def worse_by(self, best: float, other: float) -> float:
        """Return the difference of two means in the measurement's own unit, positive for worse."""
        return best - other if self.higher_is_better else other - best


def criterion_of(best_by: BestBy, cells: list[CellRecord], length: int | None) -> Criterion:
    """Return the criterion for the completed `cells`, at `length` tokens where that is possible."""
    match best_by:
        case BestBy.perplexity:
            return _perplexity_or_loss(cells, length)
        case BestBy.effective_length:
            return _EFFECTIVE_LENGTH
        case BestBy.cliff:
            return _CLIFF


def common_lengths(cells: list[CellRecord]) -> set[int]:
    """Return the lengths (tokens) that all of `cells` were evaluated at after training."""
    common: set[int] | None = None
    for cell in cells:
        evaluation = cell.evaluation("after")
        lengths = {int(length) for length in evaluation.by_length} if evaluation else set()
        common = lengths if common is None else common & lengths
    return common or set()


def heldout_loss(cell: CellRecord) -> float | None:
    """Return a cell's held-out loss after training, in nats per supervised token."""
    return _heldout(cell, "after")


def _perplexity_or_loss(cells: list[CellRecord], length: int | None) -> Criterion:
    """At `length` where all cells were evaluated there; else at the longest common length; else by
    the held-out loss."""
    common = common_lengths(cells)
    is_longest = length not in common
    if is_longest:
        length = max(common, default=None)
    one_seed = f"On one seed, a difference below {ONE_SEED_DIFFERENCE:.0%} is a tie."
    if length is None:
        return Criterion(
            measured="held-out loss",
            rule="The lowest held-out loss after training, because the completed cells have no "
            "evaluation length in common; equal ones go by the lower cost.",
            one_seed_rule=one_seed,
            measure=heldout_loss,
            before=lambda cell: _heldout(cell, "before"),
            as_text=format_values.loss,
            higher_is_better=False,
            # A loss is the logarithm of a perplexity.
            gap=lambda best, other: math.expm1(min(other - best, 700.0)),
            gap_text=_relative,
            least_gap=ONE_SEED_DIFFERENCE,
        )
    at = length
    why = ", the longest evaluation length that all completed cells have in common"
    return Criterion(
        measured=f"perplexity at {at:,} tokens",
        rule=f"The lowest perplexity after training at {at:,} tokens{why if is_longest else ''}; "
        "equal ones go by the lower held-out loss, then by the lower cost.",
        one_seed_rule=one_seed,
        measure=lambda cell: _perplexity(cell, at, "after"),
        before=lambda cell: _perplexity(cell, at, "before"),
        as_text=format_values.perplexity,
        higher_is_better=False,
        gap=lambda best, other: other / best - 1 if best else 0.0,
        gap_text=_relative,
        least_gap=ONE_SEED_DIFFERENCE,
        length=at,
    )


def _effective(cell: CellRecord, when: str) -> float | None:
    """Tokens; 0 where no length passes is worse than any."""
    return scored_effective_length(cell.evaluation(when))


def _fall(cell: CellRecord, when: str) -> float | None:
    """None also for a model that answers nothing anywhere, and so has nothing to lose."""
    if not _effective(cell, when):
        return None
    return cliff(cell.evaluation(when), cell.context_length or 0)


def _tokens(value: float | None) -> str:
    return "none of the lengths" if value == 0 else f"{format_values.count(value)} tokens"


def _points(value: float | None) -> str:
    return format_values.NOT_MEASURED if value is None else f"{100 * value:+.0f} points"


_EFFECTIVE_LENGTH = Criterion(
    measured="effective length",
    rule="The longest effective length after training (sweep.best_by=effective_length): the "
    "longest length with at least 85% of the tasks' mean score at the shortest one; equal ones go "
    "by the lower held-out loss, then by the lower cost.",
    one_seed_rule="Equal effective lengths are a tie.",
    measure=lambda cell: _effective(cell, "after"),
    before=lambda cell: _effective(cell, "before"),
    as_text=_tokens,
    higher_is_better=True,
    gap=lambda best, other: best - other,
    gap_text=lambda gap: f"{gap:,.0f} tokens less",
    least_gap=1.0,
)

_CLIFF = Criterion(
    measured="change of the mean score beyond the trained length",
    rule="The smallest fall of the tasks' mean score from the trained length to the next longer "
    "one that was measured (sweep.best_by=cliff), among the settings that have an effective length "
    "at all; equal ones go by the lower held-out loss, then by the lower cost.",
    one_seed_rule=f"On one seed, less than {100 * ONE_SEED_POINTS:.0f} points is a tie.",
    measure=lambda cell: _fall(cell, "after"),
    before=lambda cell: _fall(cell, "before"),
    as_text=_points,
    higher_is_better=True,
    gap=lambda best, other: best - other,
    gap_text=lambda gap: f"{100 * gap:.0f} points less",
    least_gap=ONE_SEED_POINTS,
)  # fmt: skip


def _relative(gap: float) -> str:
    return f"{100 * gap:+.1f} %"


def _heldout(cell: CellRecord, when: str) -> float | None:
    measurement = cell.heldout(when)
    return measurement.loss if measurement else None


def _perplexity(cell: CellRecord, length: int, when: str) -> float | None:
    measurement = cell.at_length(length, when)
    return measurement.perplexity if measurement else None
