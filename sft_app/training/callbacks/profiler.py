"""trainer.profile=true: where the time of a few training steps goes."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, schedule
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

log = logging.getLogger(__name__)

SKIPPED, WARM_UP, RECORDED = 1, 1, 3
"""Steps: the first is unlike the others, the profiler's own start is in the second."""


class ProfileSteps(TrainerCallback):
    """Writes trace.json (chrome://tracing, ui.perfetto.dev) and operators.txt; on rank 0 only."""

    def __init__(self, directory: Path) -> None:
        """Write into `directory`."""
        self.directory = directory
        self.profiler: profile | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the profiler."""
        if not state.is_world_process_zero:
            return
        activities = [ProfilerActivity.CPU]
        if args.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self.profiler = profile(
            activities=activities,
            schedule=schedule(wait=SKIPPED, warmup=WARM_UP, active=RECORDED, repeat=1),
            on_trace_ready=self._write,
            profile_memory=True,
        )
        self.profiler.start()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count a step."""
        if self.profiler is not None:
            self.profiler.step()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop, and write what a run of fewer steps has recorded."""
        if self.profiler is not None:
            self.profiler.stop()  # also writes what a run of fewer steps has recorded
            self.profiler = None

    def _write(self, recorded: profile) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        recorded.export_chrome_trace(str(self.directory / "trace.json"))
        by = "self_cuda_time_total" if torch.cuda.is_initialized() else "self_cpu_time_total"
        table = recorded.key_averages().table(sort_by=by, row_limit=30)
        (self.directory / "operators.txt").write_text(table, encoding="utf-8")
        log.info("profile         %s: trace.json, operators.txt", self.directory)
