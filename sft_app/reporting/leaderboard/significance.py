"""Which differences between methods are larger than what other seeds would change."""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sft_app.common.errors import ConfigError
from sft_app.common.processes import is_installed

LEVEL = 0.05
ROUNDING = 1e-12
"""Relative."""
TEST = (
    "Welch's t test (two-sided, unequal variances) for every pair of methods at a length, the p "
    f"values adjusted by Holm over its pairs; different means an adjusted p below {LEVEL:g}. Where "
    "no seed changes either of two different numbers, nothing is told."
)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two methods, and how sure it is that they differ."""

    first: str
    second: str
    difference: float
    """Mean of the first minus mean of the second."""
    p: float
    """Adjusted; nan where a method has a single seed."""

    @property
    def differs(self) -> bool:
        """Tell whether the difference is larger than the spread over seeds explains."""
        return self.p < LEVEL


def compare_methods(values: Mapping[str, Sequence[float]]) -> list[Pair]:
    """Compare every pair of methods by one measurement; `values`: method -> one for each seed.

    Raises ConfigError without scipy.
    """
    pairs = list(itertools.combinations(sorted(values), 2))
    raw = [welch_p(values[first], values[second]) for first, second in pairs]
    return [
        Pair(
            first=first,
            second=second,
            difference=statistics.fmean(values[first]) - statistics.fmean(values[second]),
            p=p,
        )
        for (first, second), p in zip(pairs, holm(raw), strict=True)
    ]


def welch_p(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the p value of Welch's t test (Welch 1947); nan with a single value on a side.

    Two samples without any spread are equal (1), or nothing can be told (nan): of few seeds and
    few samples, the same score twice does not mean that a third would be it.
    """
    if not is_installed("scipy"):
        raise ConfigError(
            "the leaderboard's tests need an extra that is not installed: "
            "pip install 'sft-app[leaderboard]'"
        )
    if min(len(first), len(second)) < 2:
        return math.nan
    if _no_spread(first) and _no_spread(second):
        return 1.0 if _no_spread([*first, *second]) else math.nan
    from scipy.stats import ttest_ind_from_stats

    numbers = [
        number
        for values in (first, second)
        for number in (statistics.fmean(values), statistics.stdev(values), len(values))
    ]
    return float(ttest_ind_from_stats(*numbers, equal_var=False).pvalue)


def _no_spread(values: Sequence[float]) -> bool:
    """Tell whether all are the same but for the last digits of a sum."""
    return max(values) - min(values) <= ROUNDING * max(abs(value) for value in values)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values by Holm's step-down rule (Holm 1979): valid whatever depends on what.

    What is nan stays so, and counts as no test.
    """
    order = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    adjusted = list(p_values)
    highest = 0.0
    for rank, (p, i) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p))
        adjusted[i] = highest
    return adjusted
