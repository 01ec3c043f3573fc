"""How far a model reads: tasks by length and depth, effective length, the cliff beyond."""

from dataclasses import dataclass, field

from sft_app.evaluation.scoring.effective_length import mean_scores
from sft_app.records.result import Evaluation, RunResult
from sft_app.reporting.page import format_values
from sft_app.reporting.page.svg_chart import Chart, Figure, LegendEntry, Line, draw
from sft_app.reporting.run.evaluation_text import RULE_NAMES

BEFORE, AFTER = 1, 0
MAIN_RULE = "nolima_85"


@dataclass(kw_only=True)
class HeatCell:
    """Holds one cell of a heat map: a share from 0 to 1, or nothing."""

    text: str
    share: float | None = None
    before: str = ""
    """The same before training."""


@dataclass(kw_only=True)
class HeatMap:
    """Holds a table whose cells are coloured by a share."""

    title: str
    columns: list[str]
    rows: list[tuple[str, list[HeatCell]]]


@dataclass(kw_only=True)
class LongContext:
    """Holds what the page shows of long contexts."""

    sentences: list[str] = field(default_factory=list)
    heat_maps: list[HeatMap] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class _Words:
    """What the length and the newer curve are called."""

    length: str
    newer: str
    marked: str


_OF_A_RUN = _Words(
    length="the trained",
    newer="after training",
    marked="The dotted line is the length that this run trained for.",
)
_OF_A_MODEL = _Words(
    length="its own",
    newer="as measured",
    marked="The dotted line is the length that the model was evaluated for.",
)


def long_context(result: RunResult) -> LongContext | None:
    """Return what was measured on long contexts, or None when nothing was."""
    before, after = result.evaluation_before, result.evaluation_after
    return _long_context(before, after, result.context_length, _OF_A_RUN)


def long_context_of_one(evaluation: Evaluation, context_length: int) -> LongContext | None:
    """Return the same for one evaluation, of a model at its own `context_length`."""
    return _long_context(None, evaluation, context_length, _OF_A_MODEL)


def _long_context(
    before: Evaluation | None, after: Evaluation | None, length: int, words: _Words
) -> LongContext | None:
    newest = after or before
    if newest is None or not (newest.tasks or newest.loss_by_position or newest.longppl):
        return None
    charts = [
        _scores_chart(before, after, length, words),
        _positions_chart(before, after, length, words),
    ]
    return LongContext(
        sentences=_sentences(before, after, length, words),
        heat_maps=_heat_maps(before if after else None, newest),
        figures=[figure for chart in charts if chart and (figure := draw(chart))],
    )


def effective_length(evaluation: Evaluation | None) -> int | None:
    """Return the effective length by the rule that tables show."""
    return evaluation.effective_length.get(MAIN_RULE) if evaluation else None


def scored_effective_length(evaluation: Evaluation | None) -> int | None:
    """Return the effective length with 0 where no length passes; None where nothing was scored."""
    if evaluation is None or MAIN_RULE not in evaluation.effective_length:
        return None
    return evaluation.effective_length[MAIN_RULE] or 0


def cliff(evaluation: Evaluation | None, trained: int) -> float | None:
    """Return by how much the mean score changes from the trained length to the next longer one."""
    means = mean_scores(evaluation.tasks) if evaluation else {}
    beyond = min((length for length in means if length > trained), default=None)
    if beyond is None or trained not in means:
        return None
    return means[beyond] - means[trained]


def points(value: float | None) -> str:
    """Return a difference of shares in percentage points."""
    return format_values.NOT_MEASURED if value is None else f"{100 * value:+.0f} points"


def _sentences(
    before: Evaluation | None, after: Evaluation | None, trained: int, words: _Words
) -> list[str]:
    newest = after or before
    assert newest is not None
    found = []
    for rule, length in newest.effective_length.items():
        text = "none of the lengths" if length is None else f"{length:,} tokens"
        if after is not None and before is not None and rule in before.effective_length:
            old = before.effective_length[rule]
            text += f" (before training: {'none' if old is None else f'{old:,}'})"
        found.append(f"Effective length: {text}; {RULE_NAMES.get(rule, rule)}.")
    change = cliff(newest, trained)
    if change is not None:
        found.append(
            f"Beyond {words.length} {trained:,} tokens the mean score changes: {points(change)}."
        )
    known = {n: value for n, value in newest.longppl.items() if value is not None}
    if newest.longppl:
        values = ", ".join(f"{int(n):,}: {format_values.perplexity(v)}" for n, v in known.items())
        found.append(f"LongPPL (tokens that need the long context): {values or 'no such tokens'}.")
    return found


def _heat_maps(before: Evaluation | None, newest: Evaluation) -> list[HeatMap]:
    lengths = sorted({n for scores in newest.tasks.values() for n in scores}, key=int)
    if not lengths:
        return []
    columns = [format_values.length(int(n)) for n in lengths]
    rows = []
    for task, scores in newest.tasks.items():
        old = before.tasks.get(task, {}) if before else {}
        cells = [
            _cell(scores[n].score if n in scores else None, old[n].score if n in old else None)
            for n in lengths
        ]
        rows.append((task.replace("_", " "), cells))
    maps = [HeatMap(title="Score by task and length", columns=columns, rows=rows)]
    for task, scores in newest.tasks.items():
        depths = sorted({d for score in scores.values() for d in score.by_depth}, key=float)
        if len(depths) < 2:
            continue
        by_depth = [
            (
                f"depth {100 * float(depth):.0f}%",
                [_cell(scores[n].by_depth.get(depth) if n in scores else None) for n in lengths],
            )
            for depth in depths
        ]
        title = f"{task.replace('_', ' ')}, by depth of the needle"
        maps.append(HeatMap(title=title, columns=columns, rows=by_depth))
    return maps


def _cell(share: float | None, before: float | None = None) -> HeatCell:
    return HeatCell(
        text=format_values.share(share),
        share=share,
        before="" if before is None else format_values.share(before),
    )


def _scores_chart(
    before: Evaluation | None, after: Evaluation | None, trained: int, words: _Words
) -> Chart | None:
    series = [(e, mean_scores(e.tasks) if e else {}) for e in (before, after)]
    if max(len(means) for _, means in series) < 2:
        return None
    lines, legend = _before_and_after([means for _, means in series], words, marker=True)
    return Chart(
        name="task-scores", title="Mean task score by length", unit="share of answers",
        x_label="context length in tokens", lines=lines, legend=legend, lengths_on_x=True,
        mark_x=trained, y_range=(-0.03, 1.05),
        note=words.marked,
    )  # fmt: skip


def _positions_chart(
    before: Evaluation | None, after: Evaluation | None, trained: int, words: _Words
) -> Chart | None:
    curves = [
        {int(p): loss for p, loss in e.loss_by_position.items()} if e else {}
        for e in (before, after)
    ]
    if not any(curves):
        return None
    lines, legend = _before_and_after(curves, words, marker=False)
    last = max(p for curve in curves for p in curve)
    return Chart(
        name="loss-by-position", title="Loss by position", unit="nats per token",
        x_label="position in the document, in tokens", lines=lines, legend=legend,
        mark_x=trained if trained < last else None,
        note="Each point is the mean over a thirty-second of the longest length.",
    )  # fmt: skip


def _before_and_after(
    curves: list[dict[int, float]], words: _Words, *, marker: bool
) -> tuple[list[Line], list[LegendEntry]]:
    lines, legend = [], []
    for label, curve, colour, dashed in (
        ("before training", curves[0], BEFORE, True),
        (words.newer, curves[1], AFTER, False),
    ):
        if curve:
            x = sorted(curve)
            lines.append(
                Line(x=x, y=[curve[p] for p in x], colour=colour, dashed=dashed, marker=marker)
            )
            legend.append(LegendEntry(label=label, colour=colour, dashed=dashed, marker=marker))
    return lines, legend
