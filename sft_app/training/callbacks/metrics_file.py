"""metrics.jsonl: one line for each logging step, as records/step_log.py types it."""

from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sft_app.records.run_files import write_atomically
from sft_app.records.step_log import parse_line, step_line


class MetricsFile(TrainerCallback):
    """Appends what the Trainer logs; a resumed run first drops the steps that it repeats."""

    def __init__(self, path: Path) -> None:
        """Write to `path`, on rank 0 only."""
        self.path = path

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep the whole lines up to the step from which training goes on."""
        if state.is_world_process_zero and self.path.exists():
            texts = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
            lines = [line for text in texts if (line := parse_line(text)) is not None]
            kept = [line.as_json() + "\n" for line in lines if line.step <= state.global_step]
            write_atomically(self.path, "".join(kept))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add a line; what is logged without a loss is no step, and no measurement after one."""
        if state.is_world_process_zero and logs is not None and {"loss", "eval_loss"} & logs.keys():
            with self.path.open("a", encoding="utf-8") as file:
                file.write(step_line(state.global_step, logs).as_json() + "\n")
