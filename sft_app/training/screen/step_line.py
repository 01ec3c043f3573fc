"""One line of progress, as wide as the terminal allows."""

import shutil
import sys
from collections.abc import Mapping
from datetime import timedelta

FULL_WIDTH = 200
"""Columns where nobody reads the width from a terminal: a file, a pipe."""


def step_line(step: int, max_steps: int, logs: Mapping[str, float], width: int = 0) -> str:
    """Return step, loss, time left, speed and learning rate, in that order of importance.

    Args:
        step: the step that has ended, from 1.
        max_steps: steps of the whole run.
        logs: `loss` (nats per supervised token), `learning_rate`, `tokens_per_second`,
            `seconds_left`.
        width: columns; what does not fit is left out whole. 0: a terminal's, or all.
    """
    number = f"step {step:>{len(str(max_steps))}}/{max_steps}"
    left = f"{timedelta(seconds=round(logs['seconds_left']))} left"
    parts = [  # as shown; the number says how much it matters
        (0, number),
        (1, f"loss {logs['loss']:.4f}"),
        (4, f"lr {logs['learning_rate']:.2e}"),
        (3, f"{short_count(logs['tokens_per_second'])} tokens/s"),
        (2, left),
    ]
    columns = width or _screen_width()
    while len(parts) > 1 and len("  ".join(text for _, text in parts)) > columns:
        parts.remove(max(parts))
    return "  ".join(text for _, text in parts)


def short_count(value: float) -> str:
    """Return a count in at most four digits: 940, 2.74k, 151k, 1.20M."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            scaled = value / size
            return f"{scaled:.0f}{unit}" if scaled >= 100 else f"{scaled:.3g}{unit}"
    return f"{value:.0f}"


def _screen_width() -> int:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else FULL_WIDTH
