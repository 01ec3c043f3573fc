"""The best setting of a sweep, by a rule that the report states in words."""

import math
from dataclasses import dataclass

from sft_app.reporting.page import format_values
from sft_app.reporting.sweep.cells import CellRecord
from sft_app.reporting.sweep.seed_groups import Measure, Setting, Spread

ONE_SEED_DIFFERENCE = 0.01
"""Of the perplexity: less than what another seed usually changes, so no winner on one seed."""


@dataclass(kw_only=True)
class RankedSettings:
    """Holds the settings that can be compared, best first, and the rule in words."""

    settings: list[Setting]
    """Best first; only settings that have what the rule compares."""
    rule: str
    measured: str
    """What is compared: `perplexity at 32,768 tokens`."""
    length: int | None
    measure: Measure

    @property
    def best(self) -> Setting:
        """Return the setting that ranks first."""
        return self.settings[0]

    @property
    def value(self) -> Spread:
        """Return what was measured of the best setting, over its seeds."""
        value = self.best.spread(self.measure)
        assert value is not None
        return value

    @property
    def tied(self) -> list[Setting]:
        """Return the settings that cannot be told from the best, itself included."""
        return [self.best, *(s for s in self.settings[1:] if not self._is_worse(s))]

    def distance(self, setting: Setting) -> float:
        """Return how much worse than the best a setting is, as a share of its perplexity."""
        value = setting.spread(self.measure)
        assert value is not None
        if self.length is None:  # a loss: the logarithm of a perplexity
            return math.expm1(min(value.mean - self.value.mean, 700.0))
        return value.mean / self.value.mean - 1 if self.value.mean else 0.0

    def _is_worse(self, setting: Setting) -> bool:
        first, second = self.value, setting.spread(self.measure)
        assert second is not None
        if first.deviation is not None and second.deviation is not None:
            return second.mean - first.mean >= first.deviation + second.deviation
        return self.distance(setting) >= ONE_SEED_DIFFERENCE


def rank_settings(settings: list[Setting], length: int | None = None) -> RankedSettings | None:
    """Rank the settings; None when no completed cell has a loss or a perplexity.

    At `length` (tokens) where all completed cells were evaluated there; else at the longest length
    that they have in common; else by the held-out loss.
    """
    completed = [cell for setting in settings for cell in setting.completed]
    common = common_lengths(completed)
    is_longest = length not in common
    if is_longest:
        length = max(common, default=None)
    if length is not None:
        measured = f"perplexity at {length:,} tokens"
        measure: Measure = lambda cell: _perplexity(cell, length)  # noqa: E731
        rule = (
            f"The lowest perplexity after training at {length:,} tokens"
            + (
                ", the longest evaluation length that all completed cells have in common"
                if is_longest
                else ""
            )
            + "; equal ones go by the lower held-out loss, then by the lower cost."
        )
    else:
        measured = "held-out loss"
        measure = heldout_loss
        rule = (
            "The lowest held-out loss after training, because the completed cells have no "
            "evaluation length in common; equal ones go by the lower cost."
        )
    if any(len(setting.cells) > 1 for setting in settings):
        rule += (
            " Several seeds of a setting count by their mean; a difference smaller than their "
            "standard deviations together is a tie."
        )
    else:
        rule += f" On one seed, a difference below {ONE_SEED_DIFFERENCE:.0%} is a tie."
    ranking = [setting for setting in settings if _comparable(setting, measure)]
    ranking.sort(key=lambda setting: _rank(setting, measure))
    if not ranking:
        return None
    return RankedSettings(
        settings=ranking, rule=rule, measured=measured, length=length, measure=measure
    )


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
    measurement = cell.heldout("after")
    return measurement.loss if measurement else None


def gain(ranked: RankedSettings) -> str:
    """Return the best setting's value, and where it came from before training."""
    as_text = format_values.perplexity if ranked.length else format_values.loss
    after = with_spread(ranked.value, as_text)
    before = [_before(cell, ranked.length) for cell in ranked.best.completed]
    known = [value for value in before if value is not None]
    if not known:
        return after
    return f"{after} (before training: {as_text(sum(known) / len(known))})"


def with_spread(value: Spread | None, as_text: format_values.Formatter) -> str:
    """Return mean ± deviation as text; a dash when nothing was measured."""
    if value is None:
        return format_values.NOT_MEASURED
    deviation = f" ± {as_text(value.deviation)}" if value.deviation is not None else ""
    return as_text(value.mean) + deviation


def _perplexity(cell: CellRecord, length: int) -> float | None:
    measurement = cell.at_length(length, "after")
    return measurement.perplexity if measurement else None


def _before(cell: CellRecord, length: int | None) -> float | None:
    if length is None:
        measurement = cell.heldout("before")
        return measurement.loss if measurement else None
    measurement = cell.at_length(length, "before")
    return measurement.perplexity if measurement else None


def _comparable(setting: Setting, measure: Measure) -> bool:
    value = setting.spread(measure)
    return value is not None and math.isfinite(value.mean)


def _rank(setting: Setting, measure: Measure) -> tuple[float, float, float, str]:
    return (
        _mean(setting, measure),
        _mean(setting, heldout_loss),
        _mean(setting, lambda cell: cell.gpu_hours),
        setting.variant,
    )


def _mean(setting: Setting, measure: Measure) -> float:
    """Worse than everything where it was not measured."""
    value = setting.spread(measure)
    return value.mean if value is not None and math.isfinite(value.mean) else math.inf
