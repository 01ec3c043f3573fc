"""transformers.Trainer, with what it lacks: counted tokens, atomic checkpoints, no silent NaN."""

import math
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import (
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import SCHEDULER_NAME, TRAINING_ARGS_NAME

from sft_app.common.errors import ConfigError
from sft_app.data.batches.datasets import ExampleDataset
from sft_app.data.batches.length_grouped_sampler import LengthGroupedSampler
from sft_app.training.checkpoints import STAGING, publish, rotate
from sft_app.training.lr_schedule import without_idle_step
from sft_app.training.metrics.token_counts import (
    REAL_TOKENS,
    Batch,
    Collate,
    CountingCollate,
    WorkCount,
)
from sft_app.training.parallel.context_parallel import (
    context_parallel_attention,
    shard_for_context_parallel,
)
from sft_app.training.parallel.data_ranks import data_parallel_rank
from sft_app.training.parallel.fsdp import load_shards, save_shards
from sft_app.training.prepare_model import PreparedModel

DOCUMENTS = "documents"
"""Beside the tensors of a sequence shard: the documents of the whole rows."""


class TrainingDiverged(ValueError):
    """Says that the loss is no number any more: every weight would be NaN after the next step."""


class LogWhatCounts(TrainerCallback):
    """Logs each step that is saved, for a resumed run to count on from, and the last one."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Log where a checkpoint follows, or nothing."""
        control.should_log |= control.should_save or control.should_training_stop

    on_epoch_end = on_step_end


class SFTTrainer(Trainer):
    """Trains on batches of `input_ids`, `labels` [B, T] (and `position_ids` or `attention_mask`).

    `count` has what all ranks did, before a resume as well.
    """

    optimizer: Any
    lr_scheduler: Any

    def __init__(
        self,
        *,
        prepared: PreparedModel,
        args: TrainingArguments,
        data_collator: Collate,
        **kwargs: Any,
    ) -> None:
        """Train `prepared.model`; `kwargs` are transformers.Trainer's own."""
        collate = CountingCollate(data_collator)
        super().__init__(model=prepared.model, args=args, data_collator=collate, **kwargs)
        self.prepared = prepared
        self.context = prepared.context
        self.data_parallel = data_parallel_rank(
            args.world_size, args.process_index, prepared.model_parallel_size
        )
        self.add_callback(LogWhatCounts())
        self.count = WorkCount(prepared.shape, args.device, matmul_dtype(prepared.model, args))
        # Not before: the Trainer refuses to save checkpoints of sharded models, which we do below.
        self.is_distributed_loading_by_transformers = prepared.sharded
        self._saving_in: Path | None = None

    # -- which batches -------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader:
        """The ranks that share rows read the same ones."""
        loader = super().get_train_dataloader()
        self.data_parallel.apply(loader)
        return loader

    def get_total_train_batch_size(self, args: TrainingArguments) -> int:
        """Rows of an optimizer step, which the Trainer logs."""
        return int(
            self._train_batch_size * args.gradient_accumulation_steps * self.data_parallel.size
        )

    def _get_train_sampler(
        self, train_dataset: Dataset[Batch] | None = None
    ) -> torch.utils.data.Sampler[int] | None:
        """Unpacked examples come in batches of similar length, over all ranks; rows at random."""
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if isinstance(dataset, ExampleDataset):
            rows = self._train_batch_size * self.data_parallel.size
            return LengthGroupedSampler(dataset.lengths, rows, self.args.seed)
        return super()._get_train_sampler(train_dataset)

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Build the learning-rate schedule, whose first step counts (lr_schedule.py)."""
        is_new = self.lr_scheduler is None
        super().create_scheduler(num_training_steps, optimizer)
        if is_new:
            warmup = self.args.get_warmup_steps(num_training_steps)
            self.lr_scheduler = without_idle_step(
                self.lr_scheduler, optimizer or self.optimizer, warmup
            )
        return self.lr_scheduler

    # -- counting ------------------------------------------------------------------------------

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Tensor | int | None]:
        """The micro-batches of one optimizer step, and their number of supervised tokens."""
        self.count.start(self.state)
        mine = map(self._take, epoch_iterator)
        return super().get_batch_samples(mine, num_batches, device)

    def _take(self, batch: Batch) -> dict[str, Any]:
        """Count a micro-batch as it was read; what this rank has to do of it."""
        if "loss_weights" in batch and not self.prepared.loss.chunked:
            raise ConfigError(
                "the data weights its tokens, and the model's own loss cannot: leave the "
                f"weights out. {self.prepared.loss}"
            )
        if self.data_parallel.is_first_of_its_batch:
            self.count.add(batch)
        del batch[REAL_TOKENS]
        if self.context is None:
            return batch
        shard, documents = shard_for_context_parallel(batch, self.context)
        return {**shard, DOCUMENTS: documents}

    def compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Compute the loss of a micro-batch; of a shard of its rows, with the whole documents."""
        documents = inputs.pop(DOCUMENTS, None)
        if documents is None:
            return super().compute_loss(model, inputs, *args, **kwargs)
        assert self.context is not None
        with context_parallel_attention(documents, self.context):
            return super().compute_loss(model, inputs, *args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add tokens and speed to what is logged; raise TrainingDiverged on a loss of NaN."""
        loss = logs.get("loss")
        if loss is not None:
            if not math.isfinite(loss):
                raise TrainingDiverged(
                    f"the loss became {loss} before step {self.state.global_step}. Lower "
                    "trainer.learning_rate, lengthen trainer.warmup_steps, or look for broken "
                    "records; no later checkpoint was written."
                )
            logs.update(self.count.since_last_log(self.accelerator, self.state).measured())
        super().log(logs, start_time)

    def release_training_state(self) -> None:
        """Drop what only training needs: optimizer state, and DDP's wrapper around the model.

        The wrapper has to go before its process group does. Holding the last reference to a gloo
        group, its destructor joins gloo's threads under the GIL; one of them may be waiting for it.
        """
        self.model_wrapped = self.model
        self.optimizer = self.lr_scheduler = None
        self.callback_handler.optimizer = self.callback_handler.lr_scheduler = None
        self.accelerator.free_memory()

    # -- checkpoints ---------------------------------------------------------------------------

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._saving_in) if self._saving_in else super()._get_output_dir(trial)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Write a checkpoint aside, and give it its name when every rank has finished."""
        if not torch.isfinite(self._tr_loss).all():
            raise TrainingDiverged(
                f"the loss became NaN before step {self.state.global_step}: no checkpoint written."
            )
        checkpoints = Path(self.args.output_dir)
        staging = checkpoints / STAGING
        if self.is_world_process_zero():
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        self._saving_in = staging
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._saving_in = None
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            staged = staging / f"checkpoint-{self.state.global_step}"
            (staged / TRAINING_ARGS_NAME).unlink(missing_ok=True)  # a pickle that nothing needs
            publish(staged, checkpoints)
            rotate(checkpoints, self.args.save_total_limit)
            shutil.rmtree(staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    # -- sharded models ------------------------------------------------------------------------

    def _defer_fsdp_gradient_reduction(self) -> AbstractContextManager[None]:
        """Every micro-batch is reduced: what waits for the last one would be whole gradients."""
        return nullcontext()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the weights; those of sharded models are written with the optimizer's state."""
        if not self.prepared.sharded:
            super().save_model(output_dir, _internal_call)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.prepared.sharded:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        save_shards(self.model, self.optimizer, Path(output_dir))
        if self.is_world_process_zero():
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: torch.nn.Module | None = None
    ) -> None:
        if not self.prepared.sharded:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self.prepared.sharded:
            super()._load_optimizer_and_scheduler(checkpoint)
        elif checkpoint is not None:
            load_shards(self.model, self.optimizer, Path(checkpoint))
            state = torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True)
            self.lr_scheduler.load_state_dict(state)


def matmul_dtype(model: torch.nn.Module, args: TrainingArguments) -> torch.dtype:
    """Return the dtype in which the model's matrices are multiplied."""
    if args.bf16:
        return torch.bfloat16
    return torch.float16 if args.fp16 else next(model.parameters()).dtype
