"""transformers.Trainer, with what it lacks: counted tokens, atomic checkpoints, no silent NaN."""

import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import TrainingArguments

from sft_app.common.errors import ConfigError
from sft_app.config.schema.trainer import OnNonfinite
from sft_app.data.batches.datasets import (
    CONVERSATION_SHARE,
    ExampleDataset,
    Items,
    NumberedItems,
    PackedDataset,
)
from sft_app.data.batches.length_grouped_sampler import LengthGroupedSampler
from sft_app.data.batches.skip_positions import skip_positions
from sft_app.training.attention.known_batch import KNOWN, KnownBatch, known_in_forward
from sft_app.training.callbacks.embedding_noise import EmbeddingNoise
from sft_app.training.guards.guarded_trainer import GuardedTrainer, StepInProgress
from sft_app.training.guards.loss_spikes import LossSpikes, SpikeRule
from sft_app.training.guards.step_guard import StepGuard
from sft_app.training.guards.stop_signals import IgnoringSigterm, StopSignals
from sft_app.training.heldout_trainer import HeldoutMeasure
from sft_app.training.loss.label_smoothing import SmoothedLoss
from sft_app.training.loss.loss_of_logits import router_loss_weight
from sft_app.training.metrics.token_counts import (
    Batch,
    Collate,
    CountingCollate,
    WorkCount,
)
from sft_app.training.optim.lr_schedule import without_idle_step
from sft_app.training.optim.resumed_schedule import note_peaks
from sft_app.training.optim.weight_decay import matrices_of
from sft_app.training.parallel.context_parallel import (
    context_parallel_attention,
    shard_for_context_parallel,
)
from sft_app.training.parallel.data_ranks import data_parallel_rank
from sft_app.training.peft.lora import plain_model
from sft_app.training.prepare_model import PreparedModel
from sft_app.training.saving.checkpointing_trainer import LogWhatCounts

log = logging.getLogger(__name__)

DOCUMENTS = "documents"
"""Beside the tensors of a sequence shard: the documents of the whole rows."""


class SFTTrainer(GuardedTrainer):
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
        train_dataset: Items,
        on_nonfinite: OnNonfinite = OnNonfinite.stop,
        on_loss_spike: SpikeRule | None = None,
        heldout: HeldoutMeasure | None = None,
        position_target: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Train `prepared.model`; `kwargs` are transformers.Trainer's own.

        position_target: tokens of the context that positions reach by skipping; None: they count.
        """
        self.position_target = position_target
        self.heldout = heldout
        self.guard = StepGuard(on_nonfinite, StopSignals())
        self.spikes = LossSpikes(on_loss_spike or SpikeRule())
        self._step = StepInProgress()
        collate = CountingCollate(data_collator)
        super().__init__(
            model=prepared.model,
            args=args,
            data_collator=collate,
            train_dataset=NumberedItems(train_dataset),
            **kwargs,
        )
        if isinstance(train_dataset, ExampleDataset | PackedDataset):
            self.records_of = train_dataset.records_of
        if args.label_smoothing_factor:
            self.compute_loss_func = SmoothedLoss(
                args.label_smoothing_factor, router_loss_weight(plain_model(prepared.model))
            )
            self.loss_is_scaled_for_ga = True
        self.prepared = prepared
        if prepared.loss.is_ours:
            # Some classes (Gemma-4, Qwen3.5 with towers) say that their own loss ignores the
            # step's number of tokens. Ours is divided by it: a mean of each micro-batch would
            # weight tokens by how few there are beside them.
            self.model_accepts_loss_kwargs = True
        self.context = prepared.context
        self.data_parallel = data_parallel_rank(
            args.world_size, args.process_index, prepared.model_parallel_size
        )
        self.add_callback(LogWhatCounts())
        if args.neftune_noise_alpha is not None:
            noise = EmbeddingNoise(plain_model(prepared.model), args.neftune_noise_alpha)
            self.add_callback(noise)
            self.neftune_noise_alpha = None  # the Trainer's own knows rows, and no documents
        self.count = WorkCount(prepared.shape, args.device, matmul_dtype(prepared.model, args))
        # Not before: the Trainer refuses to save checkpoints of sharded models, which we do.
        self.is_distributed_loading_by_transformers = prepared.sharded
        self._conversations: list[Tensor] = []
        """How many each micro-batch of the step has; none where tokens count the same."""

    # -- which batches -------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader:
        """The ranks that share rows read the same ones."""
        loader = super().get_train_dataloader()
        if loader.num_workers:  # a signal to all processes must leave them reading the step's rows
            loader.worker_init_fn = IgnoringSigterm(loader.worker_init_fn)
        divided = self.model_accepts_loss_kwargs or self.compute_loss_func is not None
        self.data_parallel.apply(loader, stand_ins=divided)
        return loader

    def get_total_train_batch_size(self, args: TrainingArguments) -> int:
        """Rows of an optimizer step, which the Trainer logs."""
        return int(
            self._train_batch_size * args.gradient_accumulation_steps * self.data_parallel.size
        )

    def _get_train_sampler(
        self, train_dataset: Dataset[Batch] | None = None
    ) -> torch.utils.data.Sampler[int] | None:
        """Unpacked examples come in batches of similar length, over all ranks; rows at random.

        Unless trainer.extra.train_sampling_strategy asks for another order.
        """
        dataset = self.train_dataset if train_dataset is None else train_dataset
        dataset = dataset.items if isinstance(dataset, NumberedItems) else dataset
        is_ours = getattr(self.args, "train_sampling_strategy", "random") == "random"
        if isinstance(dataset, ExampleDataset) and is_ours:
            # Of a whole step, however it is cut: other ranks go on with the same order of data.
            rows = self.get_total_train_batch_size(self.args)
            return LengthGroupedSampler(dataset.lengths, rows, self.args.seed)
        return super()._get_train_sampler(train_dataset)

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """Name what trainer.weight_decay is for (weight_decay.py)."""
        return matrices_of(model, super().get_decay_parameter_names(model))

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Build the learning-rate schedule, whose first step counts (lr_schedule.py)."""
        is_new = self.lr_scheduler is None
        self._planned_steps = num_training_steps
        super().create_scheduler(num_training_steps, optimizer)
        if is_new:
            warmup = self.args.get_warmup_steps(num_training_steps)
            self.lr_scheduler = without_idle_step(
                self.lr_scheduler, optimizer or self.optimizer, warmup
            )
            note_peaks(self.lr_scheduler, optimizer or self.optimizer)
        return self.lr_scheduler

    # -- counting ------------------------------------------------------------------------------

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Tensor | int | None]:
        """The micro-batches of one optimizer step, and their supervised tokens or conversations."""
        self.measure_what_is_owed()
        if self.state.global_step >= self.state.max_steps or self.has_stopped_early:
            # Resumed at its end.
            self.control.should_training_stop = True
            self._resumed_at = self.state.global_step
            return [], None
        self.count.start(self.state)
        self._conversations = []
        self._items: list[tuple[int, ...]] = []
        mine = map(self._take, epoch_iterator)
        batches, num_items = super().get_batch_samples(mine, num_batches, device)
        if self._conversations:  # by which the step's sum is divided, in the place of its tokens
            number = torch.stack(self._conversations).sum().to(device)
            num_items = self.accelerator.reduce(number)
        self._step = StepInProgress(batches, items=self._items, loss_before=self._tr_loss.clone())
        return batches, num_items

    def _take(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Count a micro-batch as it was read; what this rank has to do of it."""
        known: KnownBatch = batch.pop(KNOWN)
        self._items.append(known.items)
        if self.position_target is not None:
            batch["position_ids"] = skip_positions(
                batch["position_ids"],
                known.items,
                known.documents_of_rows(),
                target=self.position_target,
                seed=self.args.seed,
                step=self.state.global_step,
            )
        share = batch.pop(CONVERSATION_SHARE, None)
        if share is not None:
            batch["loss_weights"] = share * batch.get("loss_weights", torch.ones(()))
            counts = self.data_parallel.is_first_of_its_batch
            self._conversations.append(share.sum() if counts else torch.zeros(()))
        if "loss_weights" in batch and self.args.label_smoothing_factor:
            raise ConfigError(
                "trainer.extra.label_smoothing_factor: the data weights its tokens, and smoothed "
                "losses are not weighted; leave one of them out."
            )
        if "loss_weights" in batch and not self.prepared.loss.is_ours:
            who = "the data" if share is None else "trainer.loss_weighting=conversation"
            raise ConfigError(
                f"{who} weights its tokens, and the model's own loss cannot: leave the "
                f"weights out. {self.prepared.loss}"
            )
        if self.data_parallel.is_first_of_its_batch:
            self.count.add(known)
        if self.context is None:
            return {**batch, KNOWN: known}
        lengths = known.lengths if known.packed else None
        shard, documents = shard_for_context_parallel(batch, self.context, lengths)
        return {**shard, DOCUMENTS: documents}

    def compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Compute the loss of a micro-batch; of a shard of its rows, with the whole documents."""
        documents = inputs.pop(DOCUMENTS, None)
        if documents is None:
            with known_in_forward(inputs.pop(KNOWN, None)):
                return super().compute_loss(model, inputs, *args, **kwargs)
        assert self.context is not None
        with context_parallel_attention(documents, self.context):
            return super().compute_loss(model, inputs, *args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add tokens and speed to what is logged of a step."""
        if "loss" in logs:
            logs["loss"] = self.mean_of_taken_steps(logs["loss"])
            logs.update(self.count.since_last_log(self.accelerator, self.state).measured())
        super().log(logs, start_time)

    # -- at the end ----------------------------------------------------------------------------

    def release_training_state(self) -> None:
        """Drop what only training needs: optimizer state, and DDP's wrapper around the model.

        The wrapper has to go before its process group does. Holding the last reference to a gloo
        group, its destructor joins gloo's threads under the GIL; one of them may be waiting for it.
        """
        self.model_wrapped = self.model
        self.optimizer = self.lr_scheduler = None
        self.callback_handler.optimizer = self.callback_handler.lr_scheduler = None
        self.accelerator.free_memory()


def matmul_dtype(model: torch.nn.Module, args: TrainingArguments) -> torch.dtype:
    """Return the dtype in which the model's matrices are multiplied."""
    if args.bf16:
        return torch.bfloat16
    return torch.float16 if args.fp16 else next(model.parameters()).dtype
