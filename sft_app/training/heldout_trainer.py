"""A Trainer that measures held-out loss while it trains, keeps the best checkpoint, and ends early.

The measure is evaluation's own: the number that stands here for the last step is the one that
stands in result.json after training.
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from transformers import TrainerControl
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from sft_app.common import ranks
from sft_app.common.counted import counted
from sft_app.common.errors import ConfigError
from sft_app.records.result import LossMeasurement
from sft_app.training.guards.step_guard import TrainingDiverged
from sft_app.training.metrics.token_counts import WorkCount
from sft_app.training.optim.weights_to_use import has_weights_to_use, weights_to_use
from sft_app.training.parallel.fsdp import load_shards, reshard
from sft_app.training.saving.best_step import (
    EVAL_LOSS,
    Measured,
    best_of,
    has_stopped_improving,
    measurements,
)
from sft_app.training.saving.checkpointing_trainer import CheckpointingTrainer
from sft_app.training.saving.checkpoints import checkpoint_of, find_damage, step_of

log = logging.getLogger(__name__)

KEY = "HeldoutTrainer"
"""Where a checkpoint's trainer_state.json keeps whether its step is still to be measured."""


@dataclass(frozen=True, kw_only=True)
class HeldoutMeasure:
    """How held-out loss is measured while training goes, and what follows from it."""

    measure: Callable[[nn.Module, Callable[[], object]], LossMeasurement]
    """From the model, and what is called after each batch; a collective."""
    keep_best: bool = False
    """The best checkpoint is written, kept, and loaded at the end."""
    patience: int | None = None
    """Measurements without a lower loss before training ends; None: it goes on."""


class HeldoutTrainer(CheckpointingTrainer):
    """Measures as `heldout` says, whenever `args.eval_strategy` has it."""

    count: WorkCount
    heldout: HeldoutMeasure | None = None
    control: TrainerControl
    stopped_by: int = 0
    """The signal that ended training before its last step."""
    _counted_from: int = 0
    """Earlier measurements are another run's, whose checkpoints are not here."""

    def train(self, resume_from_checkpoint: Any = None, **kwargs: Any) -> Any:
        """Train, as transformers.Trainer does; measurements of another run do not count."""
        if resume_from_checkpoint is not None:
            origin = Path(resume_from_checkpoint)
            if origin.parent.resolve() != Path(self.args.output_dir).resolve():
                self._counted_from = (step_of(origin) or 0) + 1
        result = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        self.measure_what_is_owed()  # of the last step, after which no batch is read
        return result

    @property
    def measured(self) -> list[Measured]:
        """What was measured in this run."""
        found = measurements(self.state.log_history)
        return [one for one in found if one.step >= self._counted_from]

    @property
    def has_stopped_early(self) -> bool:
        """Tell whether held-out loss has not fallen for as long as it may."""
        patience = self.heldout.patience if self.heldout is not None else None
        return has_stopped_improving(self.measured, patience)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Measure held-out loss, and say it; training ends here when it has stopped falling."""
        assert self.heldout is not None, "eval_strategy=no otherwise"
        began = time.perf_counter()
        with weights_to_use(self.optimizer):
            found = self.heldout.measure(self.model, self._still_at_it)
            reshard(self.model)
        loss = _of_rank_0(found.loss, self.args.device)
        step = self.state.global_step
        if not math.isfinite(loss):
            raise TrainingDiverged(
                f"the held-out loss after step {step} is {loss}: the model computes no numbers. "
                "Lower trainer.learning_rate, and look at the held-out records."
            )
        before = best_of(self.measured)
        metrics = {EVAL_LOSS: loss}
        self.log(dict(metrics))
        best = before if before is not None and before.loss <= loss else Measured(loss, step)
        note = "the lowest so far" if best is not before else f"{best.loss:.4f} at step {best.step}"
        log.info("held-out loss   %.4f after step %d (%s)", loss, step, note)
        if self.has_stopped_early and step < self.state.max_steps:
            self.control.should_training_stop = True
            self.control.should_save |= self.args.save_strategy != SaveStrategy.NO
            log.info(
                "early stopping  after step %d of %d: %d measurements of held-out loss were no "
                "lower than that of step %d",
                step, self.state.max_steps, self.heldout.patience, best.step,
            )  # fmt: skip
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        self.count.leave_out(time.perf_counter() - began)
        return metrics

    def _still_at_it(self) -> None:
        self.callback_handler.on_prediction_step(self.args, self.state, self.control)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """Whoever is asked to end does not measure first, nor is the same step measured twice."""
        if self.stopped_by and self._measures_this_step():
            self.state.stateful_callbacks[KEY] = {"owed": True}
        if self.stopped_by or self.state.global_step == self._resumed_at:
            self.control.should_evaluate = False
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def _measures_this_step(self) -> bool:
        """Tell whether it is time to; an epoch that is broken off is not at its end."""
        if self.args.eval_strategy == IntervalStrategy.EPOCH:
            return float(self.state.epoch or 0.0).is_integer()
        return self.control.should_evaluate

    def measure_what_is_owed(self) -> None:
        """Measure a resumed step that was not, as its run was asked to end; a collective."""
        if self.heldout is None or self.stopped_by:
            return
        if self.state.stateful_callbacks.pop(KEY, {}).get("owed"):
            self._evaluate(None, None)  # as a step's: schedules that follow the loss are told

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Have a checkpoint written where the loss is lower than ever."""
        best = best_of(self.measured)
        is_best = best is not None and best.step == self.state.global_step
        if is_best and self.heldout is not None and self.heldout.keep_best:
            self.control.should_save = True
        return is_best

    def _kept_from_rotation(self) -> int | None:
        best = best_of(self.measured)
        keeps = self.heldout is not None and self.heldout.keep_best
        return best.step if keeps and best is not None else None

    # -- at the end ----------------------------------------------------------------------------

    def check_all_steps_taken(self) -> None:
        """Raise ConfigError where training ended before its last step, and nobody asked it to."""
        taken, planned = self.state.global_step, self.state.max_steps
        if taken >= planned or self.stopped_by or self.has_stopped_early:
            return
        rows, batch = len(self.train_dataset), self.args.per_device_train_batch_size
        raise ConfigError(
            f"training ended after step {taken:,} of {planned:,}, as its data gave no further "
            f"batch: they have {counted(rows, 'row')}, and a batch takes {batch:,} on each process "
            "(trainer.per_device_train_batch_size: make it smaller; "
            "trainer.extra.dataloader_drop_last, where it is set, leaves smaller batches out)."
        )

    def settle_weights(self) -> None:
        """Leave the weights that are to be used, where the optimizer trains others."""
        if has_weights_to_use(self.optimizer):
            self.optimizer.eval()

    def load_best(self) -> int:
        """Load the weights of the step with the lowest held-out loss; a collective.

        Returns the step: where that one's checkpoint is not there, or damaged, it is the next best
        that is whole.
        """
        step = self._best_on_disk()
        last = self.state.global_step
        if step is None:
            log.warning("No step was measured that has a checkpoint: the last one is kept.")
            return last
        if step == last:
            log.info("best step       %d, the last one", step)
        else:
            checkpoint = checkpoint_of(Path(self.args.output_dir), step)
            if self.prepared.sharded:
                load_shards(self.model, self.optimizer, checkpoint)
            else:
                self._load_from_checkpoint(str(checkpoint))
                if has_weights_to_use(self.optimizer):  # computed from its state
                    self._load_optimizer_and_scheduler(str(checkpoint))
            log.info("best step       %d of %d: its weights are loaded", step, last)
        return step

    def _best_on_disk(self) -> int | None:
        """Return the best step that can be loaded, as rank 0 sees it."""
        found: list[int | None] = [None]
        if self.is_world_process_zero():
            for one in sorted(self.measured):
                if one.step == self.state.global_step:  # it is in memory
                    found = [one.step]
                    break
                checkpoint = checkpoint_of(Path(self.args.output_dir), one.step)
                damage = find_damage(checkpoint) if checkpoint.is_dir() else "it was not kept"
                if damage is None:
                    found = [one.step]
                    break
                log.warning("The checkpoint of step %d is not loaded: %s.", one.step, damage)
        if ranks.is_distributed():
            dist.broadcast_object_list(found, src=0)
        return found[0]


def _of_rank_0(loss: float, device: torch.device) -> float:
    """Return what rank 0 measured: all ranks have to draw the same conclusions."""
    shared = torch.tensor(loss, dtype=torch.float64, device=device)
    if ranks.is_distributed():
        dist.broadcast(shared, src=0)
    return float(shared)
