"""What the leaderboard's figures show: each method's way down as it is tuned, a panel a length."""

import math
from collections.abc import Callable, Sequence
from functools import partial

from sft_app.reporting.leaderboard.measured_points import (
    Point,
    Trajectory,
    at_largest_budget,
)
from sft_app.reporting.page.svg_chart import Chart, LegendEntry, Line, draw
from sft_app.reporting.sweep.seed_groups import Spread, spread
from sft_app.reporting.sweep.sweep_figures import Panels


def board_figures(measured: Sequence[Trajectory]) -> list[Panels]:
    """Draw perplexity and task score against tuning tokens, and perplexity against length."""
    lengths = sorted({t.context_length for t in measured})
    methods = sorted({t.method for t in measured})
    legend = [
        LegendEntry(label=method, colour=colour, marker=True)
        for colour, method in enumerate(methods)
    ]
    groups = {
        length: [[t for t in measured if (t.context_length, t.method) == (length, method)]
                 for method in methods]
        for length in lengths
    }  # fmt: skip
    panels = [
        Panels(
            title="Perplexity at the new length, while it is tuned",
            figures=[],
            legend=legend,
            note="Mean and standard deviation over seeds; at 0 tokens the extension is applied and "
            "nothing is trained.",
        ),
        Panels(
            title="Task score at the new length, while it is tuned",
            figures=[],
            legend=legend,
            note="Mean over the tasks, and over seeds.",
        ),
        Panels(
            title="Perplexity by length, after the largest budget",
            figures=[],
            legend=legend,
            note="Dotted line: the length that was tuned for; what lies beyond it is the cliff.",
        ),
    ]
    for length, group in groups.items():
        charts = [
            Chart(
                name=f"tuning-perplexity-{length}", title=f"At {length:,} tokens",
                unit="perplexity, log scale", x_label="tuning tokens", log_y=True, is_small=True,
                lines=_by_tokens(group, partial(_perplexity, length=length)),
            ),
            Chart(
                name=f"tuning-score-{length}", title=f"At {length:,} tokens",
                unit="share of answers", x_label="tuning tokens", is_small=True,
                y_range=(-0.03, 1.05), lines=_by_tokens(group, partial(_score, length=length)),
            ),
            Chart(
                name=f"length-perplexity-{length}", title=f"Tuned at {length:,}",
                unit="perplexity, log scale", x_label="evaluation length in tokens", log_y=True,
                is_small=True, lengths_on_x=True, mark_x=length, lines=_by_length(group),
            ),
        ]  # fmt: skip
        for panel, chart in zip(panels, charts, strict=True):
            if (figure := draw(chart)) is not None:
                panel.figures.append(figure)
    return [panel for panel in panels if panel.figures]


def _by_tokens(
    group: Sequence[Sequence[Trajectory]], measure: Callable[[Point], float | None]
) -> list[Line]:
    lines = []
    for colour, own in enumerate(group):
        budgets = sorted({p.tokens for t in own for p in t.points})
        values = {
            n: spread(measure(p) for t in own for p in t.points if p.tokens == n) for n in budgets
        }
        lines += _line(values, colour, own)
    return lines


def _by_length(group: Sequence[Sequence[Trajectory]]) -> list[Line]:
    lines = []
    for colour, own in enumerate(group):
        tuned = at_largest_budget(own)
        lengths = sorted({length for point in tuned for length in point.loss})
        values = {n: spread(_perplexity(point, n) for point in tuned) for n in lengths}
        lines += _line(values, colour, own)
    return lines


def _line(values: dict[int, Spread | None], colour: int, own: Sequence[Trajectory]) -> list[Line]:
    known = {x: value for x, value in values.items() if value is not None}
    if not known:
        return []
    return [
        Line(
            x=list(known),
            y=[value.mean for value in known.values()],
            spread=[value.deviation or 0.0 for value in known.values()],
            colour=colour,
            marker=True,
            label=own[0].method,
        )
    ]


def _score(point: Point, length: int) -> float | None:
    return point.score.get(length)


def _perplexity(point: Point, length: int) -> float | None:
    loss = point.loss.get(length)
    return None if loss is None or loss > 700 else math.exp(loss)
