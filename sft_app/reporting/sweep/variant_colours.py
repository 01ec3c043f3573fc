"""Which variants of a sweep have a colour.

There may be hundreds: the best few have colours, the others are grey lines behind them, and the
legend says how many those are.
"""

from dataclasses import dataclass

from sft_app.reporting.page.svg_chart import NUM_COLOURS, LegendEntry
from sft_app.reporting.sweep.seed_groups import Setting


@dataclass(kw_only=True)
class Colours:
    """Holds which variants have a colour."""

    of: dict[str, int]
    """Variant -> series colour; those without one are grey."""
    num_others: int

    def legend(self, marker: bool = True) -> list[LegendEntry]:
        """Return the legend: the coloured variants, and how many others there are."""
        entries = [
            LegendEntry(label=variant, colour=colour, marker=marker)
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
    )
