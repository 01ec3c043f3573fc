"""Which variants of a sweep have a colour.

There may be hundreds: the best few have colours, the others are grey lines behind them, and the
legend says how many those are.
"""

from dataclasses import dataclass

from sft_app.reporting.page import format_values
from sft_app.reporting.page.svg_chart import NUM_COLOURS, LegendEntry
from sft_app.reporting.sweep.seed_groups import Setting


@dataclass(kw_only=True)
class Colours:
    """Holds which variants have a colour."""

    of: dict[str, int]
    """Variant -> series colour; those without one are grey."""
    num_others: int
    applied: dict[str, str]
    """Variant -> its name with what was applied: `yarn × 2–4`, `linear (none at 64)`."""

    def legend(self, marker: bool = True) -> list[LegendEntry]:
        """Return the legend: the coloured variants, and how many others there are."""
        entries = [
            LegendEntry(label=self.applied[variant], colour=colour, marker=marker)
            for variant, colour in self.of.items()
        ]
        if self.num_others:
            entries.append(LegendEntry(label=f"{self.num_others} other settings", colour=None))
        return entries


def choose_colours(settings: list[Setting], ranking: list[Setting]) -> Colours:
    """Give colours to the best variants, in the order of their names."""
    ordered = list(dict.fromkeys(setting.variant for setting in [*ranking, *settings]))
    chosen = sorted(ordered[:NUM_COLOURS])
    return Colours(
        of={variant: index for index, variant in enumerate(chosen)},
        num_others=len(ordered) - len(chosen),
        applied={variant: _applied(variant, settings) for variant in chosen},
    )


def _applied(variant: str, settings: list[Setting]) -> str:
    """Say which RoPE factors a variant came to, and where another method than asked was in force.

    `rope=auto` becomes some method, and any method is none where the length fits the model.
    """
    factors: set[float] = set()
    otherwise: dict[str, set[int]] = {}
    for setting in settings:
        if setting.variant != variant:
            continue
        for cell in setting.completed:
            method, factor = cell.method, cell.result.rope_factor if cell.result else None
            asked = cell.settings.get("rope.method", cell.settings.get("rope"))
            if factor is not None and factor != 1 and method != "none":
                factors.add(factor)
            if method is not None and method != asked and cell.context_length is not None:
                otherwise.setdefault(method, set()).add(cell.context_length)
    text = variant
    if factors:
        low, high = min(factors), max(factors)
        text += f" × {low:g}" + (f"–{high:g}" if high > low else "")
    notes = [
        f"{method} at {', '.join(map(format_values.length, sorted(lengths)))}"
        for method, lengths in sorted(otherwise.items())
    ]
    return f"{text} ({'; '.join(notes)})" if notes else text
