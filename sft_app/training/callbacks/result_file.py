"""result.json while training goes: a run that breaks off says how far it had come."""

import time
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sft_app.records.step_log import step_line
from sft_app.training.run_record import RunRecord

SECONDS_BETWEEN_WRITES = 1.0
"""What a killed run has logged since then, the parent finds in metrics.jsonl."""


class ResultFile(TrainerCallback):
    """Brings steps, epochs and tokens of result.json up to date whenever a step is logged."""

    def __init__(self, record: RunRecord) -> None:
        """Write through `record`, which does so on rank 0 only."""
        self.record = record
        self._written = 0.0

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Note a logged step; the file itself is written at most once in a while."""
        if logs is None or "loss" not in logs:
            return
        self.record.note_step(step_line(state.global_step, logs))
        if time.monotonic() - self._written > SECONDS_BETWEEN_WRITES:
            self.record.write()
            self._written = time.monotonic()
