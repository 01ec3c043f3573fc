"""What training did and how fast: tokens, operations, seconds; and what is left of them."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import TrainerState

from sft_app.data.batches.datasets import ITEM, STANDS_IN
from sft_app.records.result import TokenCounts
from sft_app.records.step_log import StepLine, step_line
from sft_app.training.attention.document_bounds import lengths_of_batch
from sft_app.training.attention.known_batch import KNOWN, KnownBatch, know_batch
from sft_app.training.metrics.flops import ModelShape, flops_of_batch
from sft_app.training.metrics.peak_memory import peak_memory_bytes
from sft_app.training.metrics.throughput import (
    Utilisation,
    datasheet_rate,
    measure_matmul_rate,
    utilisation,
)

Batch = dict[str, Tensor]
Collate = Callable[[list[Batch]], Batch]


@dataclass(frozen=True)
class CountingCollate:
    """Adds to each batch what the host can read off it before the device has it."""

    collate: Collate

    def __call__(self, examples: list[Batch]) -> dict[str, Any]:
        """Collate, and count what was given before it is padded."""
        documents = [
            length
            for example in examples
            if STANDS_IN not in example
            for length in lengths_of_batch({k: v.unsqueeze(0) for k, v in example.items()})
        ]
        items = [int(example[ITEM]) for example in examples if ITEM in example]
        beside = (ITEM, STANDS_IN)
        batch = self.collate([{k: v for k, v in e.items() if k not in beside} for e in examples])
        return {**batch, KNOWN: know_batch(batch, documents, items)}


def counts_of_batch(known: KnownBatch, shape: ModelShape) -> tuple[int, int, int, int]:
    """Count positions, supervised tokens, tokens of data, and FLOPs of a batch."""
    return (
        known.num_positions,
        known.num_supervised,
        known.num_real,
        flops_of_batch(shape, known.documents, known.num_supervised),
    )


class WorkCount:
    """The work of all ranks since training began; a resumed run goes on from its checkpoint."""

    def __init__(self, shape: ModelShape, device: torch.device, dtype: torch.dtype) -> None:
        """Count for a model of `shape` that multiplies in `dtype`; measures the device's rate."""
        self.shape = shape
        self.device = device
        self.datasheet_rate = None
        if device.type == "cuda":
            self.datasheet_rate = datasheet_rate(torch.cuda.get_device_name(device))
        self.measured_rate = measure_matmul_rate(device, dtype)
        self.tokens = TokenCounts()
        self.flops = 0.0
        self.seconds = 0.0
        """Wall seconds of the training loop."""
        self._unreduced = [0, 0, 0, 0]  # as counts_of_batch: this rank's since the last log
        self._log_time: float | None = None
        self._first_step = 0
        self._seconds_before = 0.0

    def start(self, state: TrainerState) -> None:
        """Begin, before the first batch is read; later calls do nothing."""
        if self._log_time is not None:
            return
        self._log_time = time.perf_counter()
        self._first_step = state.global_step
        for logged in reversed(state.log_history):
            line = step_line(state.global_step, logged)
            if line.tokens is not None:
                self.tokens = line.tokens
                self.flops = line.flops or 0.0
                self.seconds = self._seconds_before = line.seconds or 0.0
                return

    def leave_out(self, seconds: float) -> None:
        """Take time that was not spent on training out of what is measured next."""
        if self._log_time is not None:
            self._log_time += seconds

    def add(self, known: KnownBatch) -> None:
        """Count a micro-batch that this rank has read."""
        counts = counts_of_batch(known, self.shape)
        self._unreduced = [a + b for a, b in zip(self._unreduced, counts, strict=True)]

    def since_last_log(self, accelerator: Accelerator, state: TrainerState) -> StepLine:
        """Return what is logged of a step; a collective: every rank calls it."""
        now = time.perf_counter()
        assert self._log_time is not None, "a step was taken before its loss is logged"
        seconds = now - self._log_time
        # float64: a few steps of a thousand GPUs are more operations than an int64 can count.
        counts = torch.tensor(self._unreduced, dtype=torch.float64, device=self.device)
        *tokens, flops = accelerator.reduce(counts).tolist()
        total, supervised, real = map(int, tokens)
        self.tokens.total += total
        self.tokens.supervised += supervised
        self.tokens.padding += total - real
        self.flops += flops
        self.seconds += seconds
        self._unreduced = [0, 0, 0, 0]
        self._log_time = now
        share = self._share_of_rates(flops, seconds, accelerator.num_processes)
        return StepLine(
            step=state.global_step,
            total_tokens=self.tokens.total,
            non_padding_tokens=self.tokens.non_padding,
            supervised_tokens=self.tokens.supervised,
            padding_tokens=self.tokens.padding,
            tokens_per_second=real / seconds,
            supervised_tokens_per_second=supervised / seconds,
            padding_tokens_per_second=(total - real) / seconds,
            flops=self.flops,
            seconds=self.seconds,
            seconds_left=self._seconds_left(state),
            peak_memory_bytes=peak_memory_bytes()[self.device.type != "cpu"],
            mfu=share.of_datasheet,
            mfu_of_measured_matmul=share.of_measured,
        )

    def overall(self, num_processes: int) -> Utilisation:
        """Return the utilisation of the whole run so far, of each of `num_processes` devices."""
        return self._share_of_rates(self.flops, self.seconds, num_processes)

    def _share_of_rates(self, flops: float, seconds: float, num_processes: int) -> Utilisation:
        return utilisation(
            flops / num_processes,
            seconds,
            datasheet_rate=self.datasheet_rate,
            measured_rate=self.measured_rate,
        )

    def _seconds_left(self, state: TrainerState) -> float:
        """Extrapolate the mean speed since this process began to train."""
        steps = state.global_step - self._first_step
        seconds = self.seconds - self._seconds_before
        return seconds / steps * (state.max_steps - state.global_step)
