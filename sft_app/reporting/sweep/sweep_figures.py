"""What the figures of a sweep show: a colour a variant, a panel a trained context length."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from sft_app.reporting.page import format_values
from sft_app.reporting.page.svg_chart import HIGHEST, Chart, Figure, LegendEntry, Line, draw
from sft_app.reporting.run.curves import series, shorten, smooth
from sft_app.reporting.sweep.cells import CellRecord
from sft_app.reporting.sweep.criteria import heldout_loss
from sft_app.reporting.sweep.rank_settings import RankedSettings
from sft_app.reporting.sweep.seed_groups import Measure, Setting, Spread, spread
from sft_app.reporting.sweep.sweep_table import hours_label
from sft_app.reporting.sweep.variant_colours import Colours

MOST_PANELS = 6
MOST_GREY_LINES = 60
POINTS_OF_ALL_CURVES = 12_000


@dataclass(kw_only=True)
class Panels:
    """Holds figures that share one legend."""

    title: str
    figures: list[Figure]
    legend: list[LegendEntry]
    note: str


def perplexity_panels(settings: list[Setting], colours: Colours) -> Panels:
    """Draw perplexity against evaluation length, a panel for each trained length."""
    charts = []
    groups, note = _by_length(settings)
    y_range = _readable_range(groups.values())
    for length, group in groups.items():
        lines = [
            line
            for setting in _grey_first(group, colours)
            for when in ("before", "after")
            for line in _perplexity_line(setting, when, colours)
        ]
        charts.append(
            Chart(
                name=f"perplexity-{length}",
                title=f"Trained at {length:,}" if length else "Perplexity",
                unit="perplexity, log scale",
                x_label="evaluation length in tokens",
                lines=lines,
                lengths_on_x=True,
                log_y=True,
                mark_x=length,
                y_range=y_range,
                is_small=True,
            )
        )
    return Panels(
        title="Perplexity by length",
        figures=_drawn(charts),
        legend=colours.legend(),
        note=(
            "Solid: after training; dashed: before it, with the extension already applied. Dotted "
            "line: the trained length. Several seeds: mean and standard deviation. A line that "
            f"leaves the frame goes on above it; the table has every value. {note}"
        ),
    )


def quality_panel(settings: list[Setting], colours: Colours, ranked: RankedSettings) -> Panels:
    """Draw what each setting cost against how good it became, a line a variant."""
    points: dict[str, list[tuple[float, float, str]]] = {}
    priced = any(cell.cost is not None for setting in settings for cell in setting.completed)
    for setting in settings:
        value = setting.spread(ranked.criterion.measure)
        paid = setting.spread(lambda cell: cell.cost if priced else cell.gpu_hours)
        if value is not None and paid is not None and setting.context_length:
            label = f"{setting.variant} at {format_values.length(setting.context_length)}"
            points.setdefault(setting.variant, []).append((paid.mean, value.mean, label))
    lines = [
        Line(
            x=[x], y=[y], colour=colours.of.get(variant), marker=True, label=label,
            opacity=1.0 if variant in colours.of else 0.6,
        )
        for variant in sorted(points, key=lambda variant: variant in colours.of)
        for x, y, label in points[variant]
    ]  # fmt: skip
    cells = [cell for setting in settings for cell in setting.cells]
    better = "higher" if ranked.criterion.higher_is_better else "lower"
    chart = Chart(
        name="quality", title="Cost and quality", unit=ranked.criterion.measured,
        x_label="cost" if priced else hours_label(cells), lines=lines, is_fraction_on_x=True,
        log_y=_spans_decades([line.y[0] for line in lines]) and better == "lower", is_small=True,
    )  # fmt: skip
    return Panels(
        title="What quality costs",
        figures=_drawn([chart]),
        legend=colours.legend(),
        note=f"A point a setting, over its seeds; {better} and further left is better. Rest the "
        "pointer on a point to read which.",
    )


def cost_panels(settings: list[Setting], colours: Colours) -> Panels:
    """Draw what a longer context takes: speed, memory, and the loss that comes of it."""
    charts = [
        _against_context("throughput", "Throughput", "tokens per second", settings, colours,
                         lambda cell: cell.result.tokens_per_second if cell.result else None),
        _against_context("memory", "Peak memory", "GiB", settings, colours, _memory_gib),
        _against_context("heldout", "Held-out loss", "nats per token, after training", settings,
                         colours, heldout_loss, from_zero=False),
    ]  # fmt: skip
    return Panels(
        title="By trained context length",
        figures=_drawn(charts),
        legend=colours.legend(),
        note="Several seeds: mean and standard deviation.",
    )


def loss_panels(settings: list[Setting], colours: Colours) -> Panels:
    """Draw the training loss, a panel for each trained length."""
    groups, note = _by_length(settings)
    num_cells = sum(len(setting.cells) for group in groups.values() for setting in group)
    most = max(30, min(300, POINTS_OF_ALL_CURVES // max(1, num_cells)))
    charts = [
        Chart(
            name=f"loss-{length}",
            title=f"Trained at {length:,}" if length else "Training loss",
            unit="nats per token, smoothed",
            x_label="optimizer step",
            is_small=True,
            lines=[
                line
                for setting in _grey_first(group, colours)
                for cell in setting.cells
                for line in _loss_line(cell, colours.of.get(setting.variant), most)
            ],
        )
        for length, group in groups.items()
    ]
    return Panels(
        title="Training loss",
        figures=_drawn(charts),
        legend=colours.legend(marker=False),
        note=f"A line a seed. {note}",
    )


def _perplexity_line(setting: Setting, when: str, colours: Colours) -> list[Line]:
    points: dict[int, Spread] = {}
    for length in _evaluated(setting, when):
        value = spread(
            m.perplexity if (m := cell.at_length(length, when)) else None
            for cell in setting.completed
        )
        if value is not None:
            points[length] = value
    colour = colours.of.get(setting.variant)
    if not points or (colour is None and when == "before"):
        return []
    return [
        Line(
            x=list(points),
            y=[value.mean for value in points.values()],
            spread=None if colour is None else _spreads(points.values()),
            colour=colour,
            label=f"{setting.variant} {when} training",
            dashed=when == "before",
            marker=colour is not None,
            width=1.2 if when == "before" or colour is None else 1.8,
            opacity=0.5 if colour is None else 1.0,
        )
    ]


def _against_context(
    name: str,
    title: str,
    unit: str,
    settings: list[Setting],
    colours: Colours,
    measure: Measure,
    from_zero: bool = True,
) -> Chart:
    variants: dict[str, dict[int, Spread]] = {}
    for setting in settings:
        value = setting.spread(measure)
        if value is not None and setting.context_length:
            variants.setdefault(setting.variant, {})[setting.context_length] = value
    ordered = sorted(variants, key=lambda variant: variant in colours.of)
    lines = [
        Line(
            x=sorted(points),
            y=[points[length].mean for length in sorted(points)],
            spread=_spreads(points[length] for length in sorted(points)),
            colour=colours.of.get(variant),
            label=variant,
            marker=True,
            opacity=1.0 if variant in colours.of else 0.6,
        )
        for variant in ordered
        for points in (variants[variant],)
    ]
    return Chart(
        name=f"context-{name}", title=title, unit=unit, x_label="trained context length in tokens",
        lines=lines, lengths_on_x=True, y_from_zero=from_zero, is_small=True,
    )  # fmt: skip


def _loss_line(cell: CellRecord, colour: int | None, most: int) -> list[Line]:
    steps, losses = series(cell.run.metrics, "loss")
    if not steps:
        return []
    x, y = shorten((steps, smooth(losses, max(1, len(losses) // 20))), most)
    return [
        Line(
            x=x, y=y, colour=colour, width=1.0 if colour is None else 1.4,
            opacity=0.5 if colour is None else 0.9, marker=len(x) == 1,
        )
    ]  # fmt: skip


def _by_length(settings: list[Setting]) -> tuple[dict[int, list[Setting]], str]:
    """Settings by trained length; of many lengths, some from the shortest to the longest."""
    groups: dict[int, list[Setting]] = {}
    for setting in sorted(settings, key=lambda setting: setting.context_length or 0):
        groups.setdefault(setting.context_length or 0, []).append(setting)
    if len(groups) <= MOST_PANELS:
        return groups, ""
    lengths = list(groups)
    last = len(lengths) - 1
    kept = {lengths[round(index * last / (MOST_PANELS - 1))] for index in range(MOST_PANELS)}
    note = f"{len(kept)} of {len(lengths)} trained lengths are shown."
    return {length: groups[length] for length in lengths if length in kept}, note


def _grey_first(group: list[Setting], colours: Colours) -> list[Setting]:
    """Those in colour are drawn last, on top; of the grey ones, not more than can be seen."""
    grey = [setting for setting in group if setting.variant not in colours.of]
    coloured = [setting for setting in group if setting.variant in colours.of]
    return grey[:MOST_GREY_LINES] + coloured


def _readable_range(groups: Iterable[list[Setting]]) -> tuple[float, float] | None:
    """One range for all panels. What collapsed must not press the others into one line: the frame
    ends at ten times the median after training."""
    cells = [cell for group in groups for setting in group for cell in setting.completed]
    before, after = (
        [
            measurement.perplexity
            for cell in cells
            if (evaluation := cell.evaluation(when)) is not None
            for measurement in evaluation.by_length.values()
            if 1 / HIGHEST < measurement.perplexity < HIGHEST
        ]
        for when in ("before", "after")
    )
    if not before + after:
        return None
    low, high = min(before + after), max(before + after)
    return low / 1.08, min(1.08 * high, 10 * statistics.median(after or before))


def _spans_decades(values: list[float]) -> bool:
    """Tell whether what collapsed would press the others into one line on a linear axis."""
    finite = [value for value in values if 1 / HIGHEST < value < HIGHEST]
    return bool(finite) and max(finite) > 5 * min(finite)


def _evaluated(setting: Setting, when: str) -> list[int]:
    evaluations = [cell.evaluation(when) for cell in setting.completed]
    return sorted({int(length) for e in evaluations if e for length in e.by_length})


def _spreads(values: Iterable[Spread]) -> list[float] | None:
    deviations = [value.deviation for value in values]
    if all(deviation is None for deviation in deviations):
        return None
    return [deviation or 0.0 for deviation in deviations]


def _memory_gib(cell: CellRecord) -> float | None:
    return None if cell.peak_memory_bytes is None else cell.peak_memory_bytes / 2**30


def _drawn(charts: list[Chart]) -> list[Figure]:
    return [figure for figure in map(draw, charts) if figure is not None]
