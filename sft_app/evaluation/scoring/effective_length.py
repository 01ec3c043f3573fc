"""One number: how far a model really reads."""

from collections.abc import Mapping

from sft_app.records.result import TaskScore

NOLIMA_SHARE = 0.85
"""Of the score at the base length (Modarressi et al. 2025, arXiv:2502.05167, section 4)."""
RULER_THRESHOLD = 0.856
"""Llama-2-7B's score at 4,096 tokens (arXiv:2404.06654, section 4)."""
RULES = ("nolima_85", "ruler_85.6")


def effective_lengths(tasks: Mapping[str, Mapping[str, TaskScore]]) -> dict[str, int | None]:
    """Return the effective length in tokens by each rule; None where no length passes.

    nolima_85: the longest length with at least 85% of the score at the base length, the shortest
    that was measured; ruler_85.6: the longest with at least 85.6%. Both of the mean over those
    tasks that were measured at every length.
    """
    means = mean_scores(tasks)
    if not means:
        return {}
    base = means[min(means)]
    return {
        RULES[0]: _longest(means, NOLIMA_SHARE * base) if base > 0 else None,
        RULES[1]: _longest(means, RULER_THRESHOLD),
    }


def mean_scores(tasks: Mapping[str, Mapping[str, TaskScore]]) -> dict[int, float]:
    """Return the mean score by length, shortest first, over tasks measured at every length."""
    lengths = {length for scores in tasks.values() for length in scores}
    complete = [scores for scores in tasks.values() if scores.keys() == lengths]
    if not complete:
        return {}
    return {
        int(length): sum(scores[length].score for scores in complete) / len(complete)
        for length in sorted(lengths, key=int)
    }


def _longest(means: Mapping[int, float], least: float) -> int | None:
    return max((length for length, mean in means.items() if mean >= least - 1e-9), default=None)
