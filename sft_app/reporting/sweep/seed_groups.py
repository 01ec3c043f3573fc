"""Cells that differ in nothing but their seed, taken together: mean and spread."""

import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sft_app.reporting.sweep.cells import CellRecord
from sft_app.reporting.sweep.settings_diff import Difference, setting_text, short_key

NOT_PART_OF_A_VARIANT = ("seed", "context_length")
Measure = Callable[[CellRecord], float | None]


@dataclass(kw_only=True)
class Spread:
    """Holds mean and deviation of one measurement over seeds."""

    mean: float
    deviation: float | None
    """Sample standard deviation over seeds; None for a single one."""
    count: int


@dataclass(kw_only=True)
class Setting:
    """Holds the cells of one setting of everything but the seed."""

    variant: str
    context_length: int | None
    cells: list[CellRecord]

    @property
    def completed(self) -> list[CellRecord]:
        """Return the cells that completed."""
        return [cell for cell in self.cells if cell.is_completed]

    def spread(self, measure: Measure) -> Spread | None:
        """Return mean and deviation over the seeds that completed; None when none was measured.

        A seed that was run more than once is one seed, with the mean of its runs.
        """
        return spread(_once(map(measure, cells)) for cells in self.by_seed.values())

    @property
    def by_seed(self) -> dict[int | None, list[CellRecord]]:
        """Return the cells that completed by their seed: of a sweep one each, of several more."""
        found: dict[int | None, list[CellRecord]] = {}
        for cell in self.completed:
            found.setdefault(cell.seed, []).append(cell)
        return found


def spread(values: Iterable[float | None]) -> Spread | None:
    """Return mean and deviation of the values that are known; None when none is."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    if not all(math.isfinite(value) for value in known):
        return Spread(mean=math.nan, deviation=None, count=len(known))
    deviation = statistics.stdev(known) if len(known) > 1 else None
    return Spread(mean=statistics.fmean(known), deviation=deviation, count=len(known))


def _once(values: Iterable[float | None]) -> float | None:
    """Return the mean of what runs of one seed measured."""
    found = spread(values)
    return found.mean if found else None


def group_seeds(cells: list[CellRecord], differing: list[Difference]) -> list[Setting]:
    """Group the cells that differ in nothing but their seed."""
    groups: dict[tuple[str, int | None], Setting] = {}
    for cell in cells:
        variant = variant_of(cell, differing)
        key = (variant, cell.context_length)
        group = Setting(variant=variant, context_length=cell.context_length, cells=[])
        groups.setdefault(key, group).cells.append(cell)
    return list(groups.values())


def variant_of(cell: CellRecord, differing: list[Difference]) -> str:
    """Name what sets a cell apart from others of its length: `linear, learning_rate 1e-05`.

    When nothing does, its RoPE method.
    """
    parts = []
    for difference in differing:
        if difference.key in NOT_PART_OF_A_VARIANT:
            continue
        text = setting_text(cell, difference.key)
        if difference.key in ("rope.method", "rope"):
            parts.append(text or cell.method or "?")
        elif text is not None:
            parts.append(f"{short_key(difference.key)} {text}")
    return ", ".join(parts) or cell.method or "all cells"
