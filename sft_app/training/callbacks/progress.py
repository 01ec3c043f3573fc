"""What a person sees while training: a bar on a terminal, a line every 5% or 30 s elsewhere."""

import logging
import sys
import time
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sft_app.training.screen.log_setup import DETAILS
from sft_app.training.screen.step_line import step_line

log = logging.getLogger(__name__)

SHARE_BETWEEN_LINES = 0.05
SECONDS_BETWEEN_LINES = 30.0


class Progress(TrainerCallback):
    """Shows loss, speed and time left; on rank 0 only.

    The lines stand in train.log in any case; on the screen where no bar does.
    """

    def __init__(self) -> None:
        """Begin without a bar."""
        self.bar: Any = None
        self.losses: list[float] = []
        self.shown_step = -1
        self.shown_at = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the bar on a terminal."""
        if state.is_world_process_zero and sys.stderr.isatty():
            self.bar = tqdm(
                total=state.max_steps, initial=state.global_step, desc="training", unit="step",
                dynamic_ncols=True,
            )  # fmt: skip

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Move the bar."""
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show what was measured since the last line, where a line is due."""
        if not state.is_world_process_zero or logs is None or "loss" not in logs:
            return
        if self.bar is not None:
            self.bar.set_postfix_str(
                f"loss {logs['loss']:.4f}, {logs['tokens_per_second']:,.0f} tokens/s"
            )
        self.losses.append(logs["loss"])
        if not self._is_due(state):
            return
        mean = {**logs, "loss": sum(self.losses) / len(self.losses)}
        line = step_line(state.global_step, state.max_steps, mean)
        (log if self.bar is None else logging.getLogger(DETAILS)).info("%s", line)
        self.losses.clear()
        self.shown_step, self.shown_at = state.global_step, time.monotonic()

    def _is_due(self, state: TrainerState) -> bool:
        steps = state.global_step - self.shown_step
        return (
            self.shown_step < 0
            or state.global_step >= state.max_steps
            or steps >= SHARE_BETWEEN_LINES * state.max_steps
            or time.monotonic() - self.shown_at >= SECONDS_BETWEEN_LINES
        )

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()
