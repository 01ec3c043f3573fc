"""transformers.Trainer, which sums the gradients of 16-bit parameters in float32."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import Trainer, TrainerCallback

from sft_app.common import ranks
from sft_app.training.optim.float32_gradients import Float32Gradients, summed_in_float32
from sft_app.training.prepare_model import PreparedModel


class RoundGradients(TrainerCallback):
    """Rounds summed gradients when they have been looked at, right before the optimizer."""

    def __init__(self, gradients: Float32Gradients) -> None:
        """Round these, once a step."""
        self.gradients = gradients

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Give them the dtype of their parameters."""
        self.gradients.round()


class SummingTrainer(Trainer):
    """Sums gradients in float32 over micro-batches and processes, whatever shares the work."""

    prepared: PreparedModel
    _summed: Sequence[nn.Parameter] = ()
    """Parameters whose gradients are summed here."""
    _gradients: Float32Gradients | None = None

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as transformers.Trainer does."""
        copies = 1 if self.prepared.sharded else ranks.world_size()
        parameters = summed_in_float32(
            self.model.parameters(),
            accumulated=self.args.gradient_accumulation_steps,
            whole_copies=copies,
        )
        if not parameters:
            return super().train(*args, **kwargs)
        self._summed = parameters
        try:
            return super().train(*args, **kwargs)
        finally:
            self._summed = ()
            if self._gradients is not None:
                self.remove_callback(RoundGradients)
                self._gradients.close()
                self._gradients = None

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        """Take gradients behind the Trainer's own hooks: one averages what ranks have whole."""
        prepared = super()._prepare_for_training(*args, **kwargs)
        if self._summed:
            self._gradients = Float32Gradients(self._summed)
            self.add_callback(RoundGradients(self._gradients))
        return prepared

    def training_step(self, model: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """Forward and backward of a micro-batch; after the last one gradients are the step's."""
        if self._gradients is None:
            return super().training_step(model, *args, **kwargs)
        # DDP would reduce in the parameters' dtype.
        alone = model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()
        with alone:
            loss = super().training_step(model, *args, **kwargs)
        if self.accelerator.sync_gradients:
            self._gradients.hand_over()
        return loss
