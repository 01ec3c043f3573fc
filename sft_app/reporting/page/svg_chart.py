"""Line charts as inline SVG that follows the page: its fonts, and its light or dark colours.

A chart is described by plain values (`Chart`, `Line`) and drawn by `draw`, the only function that
needs matplotlib. Names that users chose enter an SVG in the texts of points only, escaped; the
legend is HTML, and escaped with the rest of the page.
"""

import io
import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from markupsafe import Markup, escape

from sft_app.reporting.page import format_values

NUM_COLOURS = 8
HIGHEST = 1e12
"""Values beyond this are no measurements, and break the arithmetic of axes."""
SIZES = {False: (4.9, 2.75), True: (3.7, 2.6)}
"""Inches. The page scales charts to its columns: a small one's text ends up as large."""
POINTS_PER_INCH = 72
MOST_HOVER_POINTS = 150
MARKERS = "os^DvPX*"
"""One for each colour, so that nothing hangs on colour alone."""

# matplotlib wants real colours. These stand in for CSS variables of the page (style.css).
_TEXT, _GRID, _PAPER, _QUIET = "#fe0201", "#fe0202", "#fe0203", "#fe0204"
_SERIES = [f"#fe01{index:02d}" for index in range(NUM_COLOURS)]
_CSS_VARIABLES = {
    _TEXT: "var(--muted)",
    _GRID: "var(--line)",
    _PAPER: "var(--paper)",
    _QUIET: "var(--quiet-series)",
    **{colour: f"var(--series-{index})" for index, colour in enumerate(_SERIES)},
}


@dataclass(kw_only=True)
class Line:
    """Describes one line of a chart: points, and how they are drawn."""

    x: Sequence[float]
    y: Sequence[float]
    colour: int | None = 0
    """Index of a series colour; None: the quiet grey of what stands in the background."""
    dashed: bool = False
    marker: bool = False
    width: float = 1.6
    opacity: float = 1.0
    spread: Sequence[float] | None = None
    """Half the height of an error bar at each point."""
    label: str = ""
    """What a pointer that rests on a point is told before the values; escaped."""


@dataclass(kw_only=True)
class LegendEntry:
    """Describes one entry of a legend, which is HTML outside the SVG."""

    label: str
    colour: int | None
    dashed: bool = False
    marker: bool = False


@dataclass(kw_only=True)
class Chart:
    """Describes a chart by plain values."""

    name: str
    """Unique on its page: its SVG ids start with it."""
    title: str
    unit: str
    x_label: str
    lines: list[Line]
    legend: list[LegendEntry] = field(default_factory=list)
    note: str = ""
    lengths_on_x: bool = False
    """The x axis is a context length: logarithmic, with ticks at the lengths themselves."""
    is_fraction_on_x: bool = False
    """The x axis is no count of steps: its numbers may have decimals."""
    log_y: bool = False
    y_from_zero: bool = False
    mark_x: float | None = None
    """A vertical line, e.g. at the length that a model was trained for."""
    y_range: tuple[float, float] | None = None
    is_small: bool = False
    """One of three in a row, and not of two."""


@dataclass(kw_only=True)
class Figure:
    """Holds a chart and the SVG that was drawn of it."""

    chart: Chart
    svg: Markup


def draw(chart: Chart) -> Figure | None:
    """Draw the chart; None when no line has a finite point to show."""
    lines = [kept for line in chart.lines if (kept := _drawable(line, chart.log_y)).x]
    if not lines:
        return None
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Canvas

    settings = {"svg.fonttype": "none", "svg.hashsalt": chart.name, "text.parse_math": False}
    with matplotlib.rc_context(settings):
        width, height = SIZES[chart.is_small]
        canvas = Canvas(figsize=(width, height), dpi=POINTS_PER_INCH)
        FigureCanvasSVG(canvas)
        # The same margins everywhere (in inches), so that the axes of neighbours stand in line.
        left, bottom, right, top = 0.5, 0.48, 0.06, 0.08
        inside = (width - left - right) / width, (height - bottom - top) / height
        axes = canvas.add_axes((left / width, bottom / height, *inside))
        _style(axes, chart, lines)
        for line in lines:
            _plot(axes, line)
        text = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        canvas.savefig(text, format="svg", transparent=True, metadata=nothing)
        hover = _hover_texts(axes, chart, lines, height)
    svg = _for_page(text.getvalue(), chart.name)
    return Figure(chart=chart, svg=Markup(svg.removesuffix("</svg>") + hover + "</svg>"))


def _hover_texts(axes: Any, chart: Chart, lines: list[Line], height: float) -> str:
    """Return circles that nobody sees, each of which tells a pointer the values of its point."""
    if sum(len(line.x) for line in lines) > MOST_HOVER_POINTS:
        return ""
    (left, right), (low, high) = sorted(axes.get_xlim()), sorted(axes.get_ylim())
    circles = []
    for line in lines:
        for x, y in zip(line.x, line.y, strict=True):
            if not (left <= x <= right and low <= y <= high):
                continue
            across, up = axes.transData.transform((x, y))
            where = format_values.length(round(x)) if chart.lengths_on_x else f"{x:,.4g}"
            name = f"{line.label}: " if line.label else ""
            text = escape(f"{name}{y:,.4g} at {where}")
            down = height * POINTS_PER_INCH - up
            circles.append(
                f'<circle class="hover" cx="{across:.1f}" cy="{down:.1f}" r="6">'
                f"<title>{text}</title></circle>"
            )
    return "\n".join(circles)


def _drawable(line: Line, log_y: bool) -> Line:
    """The line without points that have no place on the axes: NaN, infinite, or off a log scale."""
    lowest = 1 / HIGHEST if log_y else -HIGHEST
    keep = [
        index
        for index, (x, y) in enumerate(zip(line.x, line.y, strict=True))
        if abs(x) < HIGHEST and lowest < y < HIGHEST
    ]
    return replace(
        line,
        x=[line.x[index] for index in keep],
        y=[line.y[index] for index in keep],
        spread=None if line.spread is None else [line.spread[index] for index in keep],
    )


def _plot(axes: Any, line: Line) -> None:
    colour = _QUIET if line.colour is None else _SERIES[line.colour % NUM_COLOURS]
    style: Any = (0, (3, 2)) if line.dashed else "-"
    axes.plot(
        line.x,
        line.y,
        color=colour,
        linewidth=line.width,
        linestyle=style if line.width else "none",  # dashes of no width are an error before 3.11
        marker=MARKERS[(line.colour or 0) % len(MARKERS)] if line.marker else None,
        markersize=5,
        markerfacecolor=_PAPER if line.dashed else colour,
        alpha=line.opacity,
    )
    if line.spread is not None:
        low = [y - half for y, half in zip(line.y, line.spread, strict=True)]
        high = [y + half for y, half in zip(line.y, line.spread, strict=True)]
        axes.vlines(line.x, low, high, color=colour, linewidth=1.0, alpha=line.opacity)


def _style(axes: Any, chart: Chart, lines: list[Line]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

    if chart.log_y:
        axes.set_yscale("log")
    axes.yaxis.set_minor_locator(NullLocator())
    if not chart.log_y:
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    else:
        low, high = chart.y_range or _extent(lines)
        ticks = [tick for tick in _log_ticks(low, high) if low <= tick <= high]
        if len(ticks) < 2:  # within a step of 1-2-5 the ticks of a linear axis do as well
            ticks = list(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high))
        axes.yaxis.set_major_locator(FixedLocator(ticks))
    if chart.lengths_on_x:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(_length_ticks(lines)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: format_values.length(round(v))))
        axes.xaxis.set_minor_locator(NullLocator())
        lengths = {x for line in lines for x in line.x}
        if len(lengths) == 1:
            (only,) = lengths
            axes.set_xlim(only / 2, only * 2)
    else:
        most = 4 if chart.is_fraction_on_x else 6  # long numbers would run together
        axes.xaxis.set_major_locator(MaxNLocator(most, integer=not chart.is_fraction_on_x))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
    if chart.mark_x is not None:
        axes.axvline(chart.mark_x, color=_TEXT, linewidth=1, linestyle=(0, (1, 2)))
    if chart.y_range:
        axes.set_ylim(*chart.y_range)
    elif chart.y_from_zero:
        axes.set_ylim(0, 1.15 * max(max(line.y) for line in lines) or 1)
    shown = axes.yaxis.get_major_locator()()
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value, shown)))
    axes.set_xlabel(chart.x_label, color=_TEXT, fontsize=9)
    axes.tick_params(colors=_TEXT, labelsize=9, length=0, pad=5)
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(_GRID)


def _extent(lines: list[Line]) -> tuple[float, float]:
    values = [y for line in lines for y in line.y]
    return min(values), max(values)


def _log_ticks(low: float, high: float) -> list[float]:
    """1-2-5 steps over the range; whole decades alone when that would be crowded."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = [10.0**decade * step for decade in decades for step in (1, 1.5, 2, 3, 5, 7)]
    middle = [10.0**decade * step for decade in decades for step in (1, 2, 5)]
    coarse = [10.0**decade for decade in decades]
    for ticks in (fine, middle):
        if len([tick for tick in ticks if low <= tick <= high]) <= 6:
            return ticks
    return coarse if len(coarse) <= 8 else coarse[:: math.ceil(len(coarse) / 8)]


def _length_ticks(lines: list[Line]) -> list[float]:
    lengths = sorted({x for line in lines for x in line.x})
    return lengths if len(lengths) <= 8 else lengths[:: math.ceil(len(lengths) / 8)]


def _tick(value: float, ticks: Sequence[float] = ()) -> str:
    """Return a number for an axis; neighbours among `ticks` that would look alike get digits."""
    if len({_short_tick(tick) for tick in ticks}) < len(ticks):
        step = min(abs(b - a) for a, b in itertools.pairwise(sorted(ticks)))
        return f"{value:,.{min(12, max(0, math.ceil(-math.log10(step))))}f}" if step else str(value)
    return _short_tick(value)


def _short_tick(value: float) -> str:
    size = abs(value)
    if size >= 1e9 or 0 < size < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    if size >= 1e6:
        return f"{value / 1e6:.4g}M"
    return f"{value / 1e3:.4g}k" if size >= 1e4 else f"{value:,.4g}"


def _for_page(svg: str, name: str) -> str:
    """Make matplotlib's document a part of an HTML page, without colours or fonts of its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<svg [^>]*viewBox="([^"]*)"[^>]*>', r'<svg class="chart" viewBox="\1">', svg)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    svg = re.sub(r'(?<= id=")', f"{name}-", svg)
    svg = re.sub(r'(?<=href="#)|(?<=url\(#)', f"{name}-", svg).replace("xlink:href", "href")
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    svg = re.sub(r' d="[^"]*"', lambda path: _shorter(path.group()), svg)
    for colour, variable in _CSS_VARIABLES.items():
        svg = svg.replace(colour, variable)
    return re.sub(r"\n\s*", "\n", svg).strip()


def _shorter(path: str) -> str:
    """A path without line breaks, and to a hundredth of a point."""
    return re.sub(r"(\.\d\d)\d+", r"\1", path).replace(" \n", " ").replace("\n", " ")
