"""What the figures of one run show."""

import math

from sft_app.records.result import Evaluation, RunResult
from sft_app.records.step_log import StepLine
from sft_app.reporting.page.svg_chart import Chart, Figure, LegendEntry, Line, draw
from sft_app.reporting.run.curves import series, shorten, smooth
from sft_app.reporting.run.read_run import RunFolder

MOST_POINTS = 500
BEFORE, AFTER = 1, 0


def training_figures(run: RunFolder) -> list[Figure]:
    """Draw what training logged at each step: loss, learning rate, speed, memory."""
    charts = [
        _loss(run.metrics, run.result),
        _of_key(run.metrics, "learning_rate", "Learning rate", "at each step"),
        _of_key(run.metrics, "tokens_per_second", "Throughput", "tokens per second"),
        _of_key(run.metrics, "grad_norm", "Gradient norm", "before clipping"),
        _memory(run.metrics),
        _of_key(run.metrics, "mfu", "Model FLOPs utilisation", "share of the hardware's peak"),
    ]
    return [figure for figure in map(draw, charts) if figure is not None]


def evaluation_figures(result: RunResult) -> list[Figure]:
    """Draw perplexity, and passkey retrieval, against length, where there is more than a point."""
    before, after = result.evaluation_before, result.evaluation_after
    charts = [
        _against_length(
            "perplexity", "Perplexity by length", "on long documents, log scale",
            _perplexities(before), _perplexities(after), result.context_length,
        ),
        _against_length(
            "passkey", "Passkey retrieval by length", "share retrieved",
            _passkeys(before), _passkeys(after), result.context_length,
        ),
    ]  # fmt: skip
    return [figure for chart in charts if chart is not None and (figure := draw(chart))]


def _loss(metrics: list[StepLine], result: RunResult | None) -> Chart:
    steps, losses = series(metrics, "loss")
    few = len(steps) < 25
    x, y = shorten((steps, losses), MOST_POINTS)
    lines = [Line(x=x, y=y, width=1.6 if few else 1.0, opacity=1 if few else 0.35, marker=few)]
    note = ""
    if not few:
        window = max(5, len(losses) // 25)
        x, y = shorten((steps, smooth(losses, window)), MOST_POINTS)
        lines.append(Line(x=x, y=y, width=2.0))
        note = f"Bold: the mean over {window} logged steps. "
    heldout = _heldout_points(metrics, result)
    if heldout.x:
        lines.append(heldout)
        during = any(row.eval_loss is not None for row in metrics)
        when = "before, while and after training" if during else "before and after training"
        note += f"Squares: the held-out loss {when}. "
    broken = [row.step for row in metrics if row.loss is not None and not math.isfinite(row.loss)]
    if broken:
        note += f"Not finite at {len(broken)} logged steps, first at step {broken[0]:,}."
    return Chart(
        name="loss", title="Training loss", unit="nats per token", x_label="optimizer step",
        lines=lines, note=note.strip(),
    )  # fmt: skip


def _heldout_points(metrics: list[StepLine], result: RunResult | None) -> Line:
    """Held-out losses, wherever they were measured: points, for nothing is known between."""
    points = list(zip(*series(metrics, "eval_loss"), strict=True))
    if result is not None:
        last = metrics[-1].step if metrics else result.steps
        for step, evaluation in ((0, result.evaluation_before), (last, result.evaluation_after)):
            if evaluation is not None and evaluation.heldout is not None:
                points.append((float(step), evaluation.heldout.loss))
    points.sort()
    return Line(
        x=[x for x, _ in points], y=[y for _, y in points], colour=BEFORE, dashed=True,
        marker=True, width=0.0, label="held-out loss",
    )  # fmt: skip


def _of_key(metrics: list[StepLine], key: str, title: str, unit: str) -> Chart:
    x, y = shorten(series(metrics, key), MOST_POINTS)
    return Chart(
        name=key, title=title, unit=unit, x_label="optimizer step",
        lines=[Line(x=x, y=y, marker=len(x) == 1)], y_from_zero=True,
    )  # fmt: skip


def _memory(metrics: list[StepLine]) -> Chart:
    steps, sizes = series(metrics, "peak_memory_bytes")
    x, y = shorten((steps, [size / 2**30 for size in sizes]), MOST_POINTS)
    return Chart(
        name="memory", title="Peak memory", unit="GiB", x_label="optimizer step",
        lines=[Line(x=x, y=y, marker=len(x) == 1)], y_from_zero=True,
    )  # fmt: skip


def _against_length(
    name: str,
    title: str,
    unit: str,
    before: dict[int, float],
    after: dict[int, float],
    trained_length: int,
) -> Chart | None:
    if len(before.keys() | after.keys()) < 2:
        return None
    lines, legend = [], []
    for label, points, colour, dashed in (
        ("before training", before, BEFORE, True),
        ("after training", after, AFTER, False),
    ):
        if points:
            x = sorted(points)
            y = [points[length] for length in x]
            lines.append(Line(x=x, y=y, colour=colour, dashed=dashed, marker=True))
            legend.append(LegendEntry(label=label, colour=colour, dashed=dashed, marker=True))
    share = name == "passkey"
    return Chart(
        name=name, title=title, unit=unit, x_label="evaluation length in tokens", lines=lines,
        legend=legend, lengths_on_x=True, log_y=not share, mark_x=trained_length,
        y_range=(-0.03, 1.05) if share else None,
        note="The dotted line is the length that this run trained for.",
    )  # fmt: skip


def _perplexities(evaluation: Evaluation | None) -> dict[int, float]:
    if evaluation is None:
        return {}
    return {int(length): m.perplexity for length, m in evaluation.by_length.items()}


def _passkeys(evaluation: Evaluation | None) -> dict[int, float]:
    return {} if evaluation is None else {int(k): share for k, share in evaluation.passkey.items()}
