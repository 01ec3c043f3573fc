"""A Trainer that looks at every step before the optimizer takes it, and acts on what it sees."""

import copy
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from transformers.trainer_utils import SaveStrategy

from sft_app.common import ranks
from sft_app.config.schema.trainer import OnLossSpike
from sft_app.records.result import Rewind
from sft_app.training.guards import loss_spikes, step_guard
from sft_app.training.guards.autopsy import write_autopsy
from sft_app.training.guards.loss_spikes import LossSpikes, Spike
from sft_app.training.guards.step_guard import (
    Look,
    StepGuard,
    TrainingDiverged,
    clip_gradients,
    gradient_norm,
)
from sft_app.training.heldout_trainer import HeldoutTrainer
from sft_app.training.saving.checkpoints import newest_whole, step_of

log = logging.getLogger(__name__)


@dataclass
class StepInProgress:
    """What the guard needs to know of the optimizer step that is being made."""

    batches: list[dict[str, Any]] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)
    """Of this rank's micro-batches."""
    items: list[tuple[int, ...]] = field(default_factory=list)
    """Which items of the training set each micro-batch holds."""
    loss_before: Tensor | None = None
    """The Trainer's sum when the step began."""


class GuardedTrainer(HeldoutTrainer):
    """Leaves out, undoes or ends at a step whose numbers are not right, on all ranks alike."""

    guard: StepGuard
    spikes: LossSpikes
    records_of: Callable[[int], list[str]] | None = None
    """From an item of the training set to the records that it was made of."""
    _step: StepInProgress
    _taken_since_log = 0
    _skipped_since_log = 0

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Forward and backward of a micro-batch; its loss is kept for the guard."""
        loss: Tensor = super().training_step(*args, **kwargs)
        self._step.losses.append(loss)
        return loss

    def mean_of_taken_steps(self, mean: float) -> float:
        """Leave skipped steps, which add nothing to the sum, out of a mean since the last log."""
        taken, skipped = self._taken_since_log, self._skipped_since_log
        self._taken_since_log = self._skipped_since_log = 0
        return mean * (taken + skipped) / taken if taken else math.nan

    def _clip_grad_norm(self, model: torch.nn.Module) -> Tensor:
        """Look at the gradients before they are scaled: one NaN would be in all of them after."""
        self.accelerator.unscale_gradients()
        norm = gradient_norm(model.parameters())
        if self._may_step(norm):
            clip_gradients(model.parameters(), self.args.max_grad_norm, norm)
        return norm

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        if grad_norm is None:  # nothing is clipped
            grad_norm = gradient_norm(model.parameters())
            self._may_step(grad_norm)
        return grad_norm

    def _may_step(self, norm: Tensor) -> bool:
        """Tell whether the optimizer takes this step; raise TrainingDiverged where the run ends."""
        look = self.guard.look(self._step.losses, norm if self.accelerator.scaler is None else None)
        if look.stop_signal:
            self.stopped_by = look.stop_signal
            self.control.should_log = self.control.should_training_stop = True
            self.control.should_save = self.args.save_strategy != SaveStrategy.NO
        if not look.is_finite:
            self._leave_out(look, norm)
            return False
        self.guard.passed()
        self._taken_since_log += 1
        spike = self.spikes.judge(look.loss)
        if spike is not None:
            self._rewind(spike, look, norm)
        return spike is None

    def _leave_out(self, look: Look, norm: Tensor) -> None:
        """Have the optimizer pass over a step that is not finite, where that is allowed."""
        autopsy = self._autopsy(look, norm)
        step = self.state.global_step + 1
        what = "gradient" if look.finite_loss else "loss"
        if not self.guard.may_skip():
            raise TrainingDiverged(
                f"the {what} of step {step} is not finite, and no weight was changed by it. Lower "
                "trainer.learning_rate, lengthen trainer.warmup_steps, look at the step's records "
                f"in {autopsy}, or leave such steps out with trainer.on_nonfinite=skip."
            )
        log.warning("step %d is left out: its %s is not finite (%s)", step, what, autopsy)
        self._drop_gradients()
        self._tr_loss.copy_(self._step.loss_before)
        self._skipped_since_log += 1

    # -- spikes of the loss --------------------------------------------------------------------

    def _rewind(self, spike: Spike, look: Look, norm: Tensor) -> None:
        """Undo the steps since the newest checkpoint from before a spike, and leave this one out.

        The loss of step s was computed by the weights of step s - 1. So a checkpoint of step c is
        known to be from before the spike where step c + 1 was none: c is s - 2 at most.
        """
        autopsy = self._autopsy(look, norm)
        step = self.state.global_step + 1
        seen = f"step {step} is a spike: {spike}"
        if self.spikes.rule.action is OnLossSpike.stop:
            raise TrainingDiverged(
                f"{seen}. No weight was changed by it. Look at its records in {autopsy}, lower "
                "trainer.learning_rate, or go on from before it with trainer.on_loss_spike=rewind."
            )
        if not self.spikes.may_rewind():
            raise TrainingDiverged(
                f"{seen}, and training has gone back {self.spikes.rule.max_rewinds} times, which "
                f"trainer.max_rewinds allows. Lower trainer.learning_rate, and look at the records "
                f"in {autopsy.parent}."
            )
        checkpoint = self._newest_from_before(step)
        if checkpoint is None:
            raise TrainingDiverged(
                f"{seen}, and there is no whole checkpoint from before it, of step {step - 2} or "
                "earlier: lower trainer.learning_rate, or write checkpoints more often "
                "(trainer.save_steps) so that there is one to go back to."
            )
        back_to = step_of(checkpoint)
        assert back_to is not None, "numbered"
        self._load_weights_and_optimizer(checkpoint)
        self._drop_gradients()
        self.spikes.rewinds.append(
            Rewind(step=step, back_to=back_to, loss=spike.loss, usual_loss=spike.mean)
        )
        self.control.should_log = self.control.should_save = True  # a restart needs not do it again
        log.warning(
            "step %d is a spike: %s. Training goes on with the weights and the optimizer of step "
            "%d, and leaves out the batches since then (%s)",
            step, spike, back_to, autopsy,
        )  # fmt: skip

    def _newest_from_before(self, step: int) -> Path | None:
        """Return the checkpoint to go back to from a spike at `step`, as rank 0 sees it."""
        found: list[Path | None] = [None]
        if ranks.is_main():
            found = [newest_whole(Path(self.args.output_dir), before=step - 1)]
        if ranks.is_distributed():
            dist.broadcast_object_list(found, src=0)
        return found[0]

    def _load_weights_and_optimizer(self, checkpoint: Path) -> None:
        """Load both, and leave the schedule where it is: at this step, as the data are."""
        rates = [group["lr"] for group in self.optimizer.param_groups]
        schedule = copy.deepcopy(self.lr_scheduler.state_dict())
        self._load_from_checkpoint(str(checkpoint))
        self._load_optimizer_and_scheduler(str(checkpoint))
        self.lr_scheduler.load_state_dict(schedule)
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def train(self, resume_from_checkpoint: Any = None, **kwargs: Any) -> Any:
        """Train; a resumed run knows what its guards have kept of the steps before."""
        self._restores_guards = resume_from_checkpoint is not None
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        if self._restores_guards:
            kept = self.state.stateful_callbacks
            self.spikes.restore(kept.get(loss_spikes.KEY, {}))
            self.guard.restore(kept.get(step_guard.KEY, {}))
        return super()._prepare_for_training(*args, **kwargs)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        self.state.stateful_callbacks[step_guard.KEY] = self.guard.as_dict()
        if self.spikes.watches:
            self.state.stateful_callbacks[loss_spikes.KEY] = self.spikes.as_dict()
        super()._save_checkpoint(*args, **kwargs)

    # -- what both need ------------------------------------------------------------------------

    def _drop_gradients(self) -> None:
        for parameter in self.model.parameters():
            parameter.grad = None  # the optimizer passes over them

    def _autopsy(self, look: Look, norm: Tensor) -> Path:
        items = [item for part in self._step.items for item in part]
        return write_autopsy(
            Path(self.args.output_dir).parent,
            step=self.state.global_step,
            rank=self.args.process_index,
            look=look,
            losses=self._step.losses,
            norm=norm.item(),
            model=self.model,
            batches=self._step.batches,
            records=[self.records_of(item) for item in items] if self.records_of else [],
            tokenizer=self.processing_class,
            logged=self.state.log_history,
        )
