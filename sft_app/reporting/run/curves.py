"""Long curves made short enough to draw, and calm enough to read."""

import itertools
import math
from collections.abc import Sequence

from sft_app.records.step_log import StepLine

Points = tuple[list[float], list[float]]


def series(metrics: Sequence[StepLine], key: str) -> Points:
    """Return steps and values of one key, where it was measured and is finite."""
    pairs = [(row.step, getattr(row, key)) for row in metrics]
    known = [(float(x), float(y)) for x, y in pairs if y is not None and math.isfinite(y)]
    return [step for step, _ in known], [value for _, value in known]


def smooth(values: Sequence[float], window: int) -> list[float]:
    """Return the mean of about `window` neighbours around each value; of fewer at the ends."""
    half = window // 2
    totals = [0.0]
    for value in values:
        totals.append(totals[-1] + value)
    smoothed = []
    for index in range(len(values)):
        start, end = max(0, index - half), min(len(values), index + half + 1)
        smoothed.append((totals[end] - totals[start]) / (end - start))
    return smoothed


def shorten(points: Points, most: int) -> Points:
    """Return at most `most` points, each the mean of its neighbours."""
    x, y = points
    if len(x) <= most:
        return points
    bounds = [round(part * len(x) / most) for part in range(most + 1)]
    parts = list(itertools.pairwise(bounds))
    return (
        [sum(x[start:end]) / (end - start) for start, end in parts],
        [sum(y[start:end]) / (end - start) for start, end in parts],
    )
