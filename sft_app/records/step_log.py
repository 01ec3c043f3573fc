"""metrics.jsonl: one typed line for each logging step, for those who write it and who read it.

"Tokens" means the same on the screen, here and in result.json: `total` are all positions that went
through the model, `non_padding` those that hold data, `supervised` those whose loss counts. A rate
of tokens without another word leaves the padding out.
"""

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft_app.common import strict_json
from sft_app.records.result import RunResult, TokenCounts
from sft_app.records.run_files import METRICS


@dataclass(kw_only=True)
class StepLine:
    """What was measured up to one optimizer step; None is what a run does not measure.

    Counts are of all ranks together and since training began, before a resume as well; rates and
    `mfu` are of the time since the line before.
    """

    step: int
    epoch: float | None = None
    loss: float | None = None
    """Mean over the steps since the line before, nats per supervised token."""
    learning_rate: float | None = None
    grad_norm: float | None = None
    """Before clipping."""
    eval_loss: float | None = None
    """On held-out conversations, after the step; such a line holds nothing else of the step."""
    total_tokens: int | None = None
    non_padding_tokens: int | None = None
    supervised_tokens: int | None = None
    padding_tokens: int | None = None
    tokens_per_second: float | None = None
    """Padding left out."""
    supervised_tokens_per_second: float | None = None
    padding_tokens_per_second: float | None = None
    flops: float | None = None
    seconds: float | None = None
    """Wall seconds of the training loop."""
    seconds_left: float | None = None
    peak_memory_bytes: int | None = None
    """Of rank 0: on its device, or of the host where it has none."""
    mfu: float | None = None
    """Share of the datasheet's rate, 0 to 1."""
    mfu_of_measured_matmul: float | None = None

    @property
    def tokens(self) -> TokenCounts | None:
        """The counts as result.json holds them; None where the line has none."""
        if self.total_tokens is None:
            return None
        return TokenCounts(
            total=self.total_tokens,
            supervised=self.supervised_tokens or 0,
            padding=self.padding_tokens or 0,
        )

    def measured(self) -> dict[str, float]:
        """Return what was measured, by name and without the step: what the Trainer logs."""
        found = {field: getattr(self, field) for field in MEASURED}
        return {field: value for field, value in found.items() if value is not None}

    def as_json(self) -> str:
        """Return the line as it stands in the file: null for what is no finite number."""
        return strict_json.dumps({"step": self.step, **self.measured()})


MEASURED = tuple(field.name for field in dataclasses.fields(StepLine) if field.name != "step")
COUNTED = (
    "total_tokens", "non_padding_tokens", "supervised_tokens", "padding_tokens",
    "peak_memory_bytes",
)  # fmt: skip
"""Whole numbers; the others are read as floats."""
MAY_BREAK = ("loss", "grad_norm", "eval_loss")
"""What null stands for a number of that is none: rates are left out where they cannot be told."""
_BEFORE_0_2 = {"tokens": "total_tokens"}
"""Keys of older files, and what they are called now."""


def step_line(step: int, logged: dict[str, Any]) -> StepLine:
    """Make a line of what the Trainer logs; keys that are no part of a line are left out."""
    values = {_BEFORE_0_2.get(key, key): value for key, value in logged.items()}
    line = StepLine(step=step, **{key: _number(key, values.get(key)) for key in MEASURED})
    if line.non_padding_tokens is None and line.total_tokens is not None:
        line.non_padding_tokens = line.total_tokens - (line.padding_tokens or 0)
    return line


def parse_line(text: str) -> StepLine | None:
    """Read one line of the file; None when it is broken, or says nothing of a step."""
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(raw, dict) or type(raw.get("step")) is not int:
        return None
    broken = {key: math.nan for key in MAY_BREAK if key in raw and raw[key] is None}
    return step_line(raw["step"], raw | broken)


def last_line(run_dir: Path) -> StepLine | None:
    """Return the newest whole line of a run's metrics.jsonl; None where there is none."""
    try:
        text = (run_dir / METRICS).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    lines = (parse_line(line) for line in reversed(text.splitlines()))
    return next((line for line in lines if line is not None), None)


def note_step(result: RunResult, line: StepLine) -> None:
    """Bring steps, epochs, tokens and mean speed of a result up to a logged step."""
    if line.step < result.steps:
        return
    result.steps = line.step
    result.epochs = round(line.epoch or result.epochs, 4)
    if line.tokens is not None:
        result.tokens = line.tokens
        if line.seconds:
            result.tokens_per_second = round(line.tokens.non_padding / line.seconds, 2)


def _number(key: str, value: Any) -> Any:
    """Return `value` where it is a number; of a dictionary (host, device), the largest."""
    if isinstance(value, dict):
        parts = [part for part in (_number(key, inner) for inner in value.values()) if part]
        return max(parts, default=None)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
        return int(number) if key in COUNTED else number
    except (OverflowError, ValueError):  # beyond what a float holds; a count of NaN
        return None
