"""metrics.jsonl: what each logging step measured. Lines that cannot be read are counted."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft_app.records.run_files import METRICS


@dataclass(kw_only=True)
class StepMetrics:
    """Holds one line. A key that a run does not measure is None; NaN stays NaN."""

    step: int
    epoch: float | None = None
    loss: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    tokens_per_second: float | None = None
    tokens: float | None = None
    supervised_tokens: float | None = None
    padding_tokens: float | None = None
    seconds: float | None = None
    peak_memory_bytes: float | None = None
    mfu: float | None = None


MEASURED = [field.name for field in dataclasses.fields(StepMetrics) if field.name != "step"]


def read_metrics(run_dir: Path) -> tuple[list[StepMetrics], list[str]]:
    """Return the steps in order, and what was wrong with the file, in sentences.

    A run that resumed from a checkpoint has written some steps twice: the later line counts.
    """
    path = run_dir / METRICS
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return [], [f"{METRICS} is missing: nothing was logged."]
    except OSError as error:
        return [], [f"{METRICS} cannot be read: {error.strerror}."]
    by_step: dict[int, StepMetrics] = {}
    unreadable: list[int] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        parsed = _parse(line)
        if parsed is None:
            unreadable.append(number)
        else:
            by_step[parsed.step] = parsed
    problems = [_complaint(unreadable, len(lines))] if unreadable else []
    return [by_step[step] for step in sorted(by_step)], problems


def number(value: Any) -> float | None:
    """Return a number as a float, of a dictionary (host, device) its largest; else None."""
    if isinstance(value, dict):
        parts = [part for part in map(number, value.values()) if part is not None]
        return max(parts, default=None)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def _parse(line: str) -> StepMetrics | None:
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(raw, dict) or not isinstance(raw.get("step"), int):
        return None
    return StepMetrics(step=raw["step"], **{key: number(raw.get(key)) for key in MEASURED})


def _complaint(unreadable: list[int], total: int) -> str:
    if unreadable == [total]:
        return f"The last line of {METRICS} is incomplete: the run was writing it, or broke off."
    lines = "line" if len(unreadable) == 1 else "lines"
    return (
        f"{METRICS}: {len(unreadable)} of {total} {lines} cannot be read and were left out "
        f"(the first is line {unreadable[0]})."
    )
