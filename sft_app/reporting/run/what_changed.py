"""What training changed, in a sentence: at the new length, and at the lengths of before."""

import math

from sft_app.records.result import RunResult
from sft_app.reporting.page import format_values
from sft_app.reporting.run.read_run import RunFolder
from sft_app.reporting.run.summary import at

NOT_FORGOTTEN = 0.01
"""A perplexity that is at most this share higher than before training counts as kept."""


def what_changed(run: RunFolder) -> str:
    """Return `Perplexity at 128: 336 → 208; at 64, the old range: 331 → 210, nothing forgotten.`

    Empty where the run measured no length before and after training.
    """
    if run.result is None:
        return ""
    measured = _measured(run.result)
    if not measured:
        return ""
    trained = run.result.context_length
    new = trained if trained in measured else max(measured)
    parts = [f"at {format_values.length(new)}: {_arrow(*measured[new])}"]
    original = at(run.plan, "rope.model_context_length")
    old = [n for n in measured if isinstance(original, int) and n <= original and n != new]
    if old:
        before, after = measured[max(old)]
        kept = after <= before * (1 + NOT_FORGOTTEN)
        verdict = "nothing forgotten" if kept else "worse than before: something was forgotten"
        length = format_values.length(max(old))
        parts.append(f"at {length}, the old range: {_arrow(before, after)}, {verdict}")
    return f"Perplexity {'; '.join(parts)}."


def _measured(result: RunResult) -> dict[int, tuple[float, float]]:
    """Return length in tokens -> perplexity before and after, where both are known and finite."""
    if result.evaluation_before is None or result.evaluation_after is None:
        return {}
    before, after = result.evaluation_before.by_length, result.evaluation_after.by_length
    pairs = {
        int(length): (before[length].perplexity, after[length].perplexity)
        for length in before.keys() & after.keys()
    }
    return {n: pair for n, pair in pairs.items() if all(math.isfinite(value) for value in pair)}


def _arrow(before: float, after: float) -> str:
    return f"{format_values.perplexity(before)} → {format_values.perplexity(after)}"
