"""What a person sees while training: a bar on a terminal, a line per logging step elsewhere."""

import sys
from datetime import timedelta
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class Progress(TrainerCallback):
    """Shows loss, speed and time left; on rank 0 only."""

    def __init__(self) -> None:
        """Begin without a bar."""
        self.bar: Any = None

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
        """Show what the step measured."""
        if not state.is_world_process_zero or logs is None or "loss" not in logs:
            return
        speed = logs["tokens_per_second"]
        if self.bar is not None:
            self.bar.set_postfix_str(f"loss {logs['loss']:.4f}, {speed:,.0f} tokens/s")
            return
        print(
            f"step {state.global_step:>{len(str(state.max_steps))}}/{state.max_steps}  "
            f"loss {logs['loss']:.4f}  lr {logs['learning_rate']:.2e}  "
            f"{speed:,.0f} tokens/s  {timedelta(seconds=round(logs['seconds_left']))} left",
            flush=True,
        )

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()
