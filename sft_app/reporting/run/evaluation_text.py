"""An evaluation in lines of text, for a terminal."""

from collections.abc import Iterator

from sft_app.records.result import Evaluation
from sft_app.reporting.page import format_values

RULE_NAMES = {
    "nolima_85": "85% of the score at the shortest length",
    "ruler_85.6": "at least 85.6%",
}


def evaluation_lines(evaluation: Evaluation) -> Iterator[str]:
    """Yield a table: a row a measurement, a column a length; then the effective lengths."""
    if evaluation.heldout is not None:
        perplexity = format_values.perplexity(evaluation.heldout.perplexity)
        loss = format_values.loss(evaluation.heldout.loss)
        yield f"held-out loss {loss} (perplexity {perplexity})"
    of_tasks = [length for scores in evaluation.tasks.values() for length in scores]
    lengths = sorted({*evaluation.by_length, *evaluation.longppl, *of_tasks}, key=int)
    if lengths:
        yield "".join([f"{'tokens':<20}", *(f"{int(n):>10,}" for n in lengths)])
    if evaluation.by_length:
        yield _row(
            "perplexity",
            [m.perplexity if (m := evaluation.by_length.get(n)) else None for n in lengths],
            format_values.perplexity,
        )
    if evaluation.longppl:
        found = [evaluation.longppl.get(n) for n in lengths]
        yield _row("LongPPL", found, format_values.perplexity)
    for task, scores in evaluation.tasks.items():
        found = [scores[n].score if n in scores else None for n in lengths]
        yield _row(task, found, format_values.share)
    for rule, length in evaluation.effective_length.items():
        text = "none of these lengths" if length is None else f"{length:,} tokens"
        yield f"effective length: {text} ({RULE_NAMES.get(rule, rule)})"
    for task, metrics in evaluation.lm_eval.items():
        yield f"{task}: " + ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())


def _row(label: str, values: list[float | None], as_text: format_values.Formatter) -> str:
    return "".join([f"{label:<20}", *(f"{as_text(value):>10}" for value in values)])
