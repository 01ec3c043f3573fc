"""What a training step will need in memory, estimated before any weight is loaded."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import PretrainedConfig

from sft_app.config.schema.adapter import AdapterConfig
from sft_app.config.schema.trainer import TrainerConfig
from sft_app.loader.architecture.skeleton import build_skeleton
from sft_app.training.activation_memory.tile_layers import (
    tiling_obstacle,
    tiling_refused,
)
from sft_app.training.activation_memory.tiling_plan import TilingPlan
from sft_app.training.estimates.activation_bytes import activation_bytes
from sft_app.training.estimates.activations import Activations, count_activations
from sft_app.training.estimates.loss_bytes import chunk_of_logits, loss_bytes
from sft_app.training.estimates.optimizer_state import optimizer_state_bytes
from sft_app.training.estimates.weight_bytes import (
    copied_weights,
    gathered_bytes,
    saved_by_quantisation,
    summed_over_tiles,
)
from sft_app.training.loss.patched_forward import chunked_loss_obstacle
from sft_app.training.metrics.flops import ModelShape, shape_of
from sft_app.training.optim.float32_gradients import summed_in_float32
from sft_app.training.peft.lora import put_adapter

WORTH_TILING = 0.05
"""Of the whole estimate: below it rows are not computed in tiles unless it is asked for."""
ACTIVATION_BYTES = 34
"""Bytes per token, layer and hidden unit kept for the backward pass in 16 bits, attention scores
left out because no kernel in use stores them (Korthikanti et al. 2022, arXiv:2205.05198,
equation 2): where the architecture cannot be asked."""


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes on one device at the peak of a step."""

    num_parameters: int
    """Those of the adapter included."""
    num_trainable_parameters: int
    weights: int
    """With the copies in 16 bits that mixed precision keeps of whole matrices during a step."""
    gradients: int
    optimizer: int
    activations: int
    logits: int
    """And what else the loss holds: of one chunk, where it works in chunks."""
    buckets: int = 0
    """DDP's copy of the gradients, in which they are reduced."""
    gathered: int = 0
    """Weights and gradients that FSDP has whole at a time: two layers, and what is around them."""

    @property
    def total(self) -> int:
        """Return the sum of all parts."""
        parts = (self.weights, self.gradients, self.optimizer, self.activations, self.logits)
        return sum(parts) + self.buckets + self.gathered

    def as_dict(self) -> dict[str, Any]:
        """Return what stands in plan.json."""
        return {**asdict(self), "total": self.total}

    def __str__(self) -> str:
        """Say it in a line of the log."""

        def gib(number: int) -> str:
            return f"{number / 2**30:.2f} GiB"

        return (
            f"memory          about {gib(self.total)} per process: weights {gib(self.weights)}, "
            f"gradients {gib(self.gradients)}, optimizer {gib(self.optimizer)}, "
            f"activations {gib(self.activations)}, loss {gib(self.logits)}"
            + (f", gradient buckets {gib(self.buckets)}" if self.buckets else "")
            + (f", gathered from shards {gib(self.gathered)}" if self.gathered else "")
        )


def estimate_memory(
    config: PretrainedConfig,
    trainer: TrainerConfig,
    adapter: AdapterConfig,
    *,
    context_length: int,
    dtype: torch.dtype,
    compute_dtype: torch.dtype,
    chunk_bytes: int,
    num_shards: int = 1,
    num_replicas: int = 1,
    tile_tokens: int | None = None,
) -> MemoryEstimate:
    """Estimate what one process holds in a step over rows, or sequence shards, of the context.

    Frozen weights have neither gradients nor optimizer state; with an adapter, only it has them.
    `dtype` is the parameters', `compute_dtype` that of matrix products, which activations have.
    `chunk_bytes`: float32 logits that the loss head holds at a time. `num_shards`: processes that
    share parameters, gradients and optimizer state (FSDP); `num_replicas`: processes that reduce
    whole gradients (DDP). `tile_tokens`: positions of a tile, where trainer.tiled_mlp is to decide
    whether MLPs are computed in tiles; None: they are not.
    """
    return MemoryEstimator(
        config,
        trainer,
        adapter,
        dtype=dtype,
        compute_dtype=compute_dtype,
        chunk_bytes=chunk_bytes,
        num_shards=num_shards,
        num_replicas=num_replicas,
        tile_tokens=tile_tokens,
    ).at(context_length)


class MemoryEstimator:
    """Estimates for rows of any length of one architecture, which is looked at once."""

    def __init__(
        self,
        config: PretrainedConfig,
        trainer: TrainerConfig,
        adapter: AdapterConfig,
        *,
        dtype: torch.dtype,
        compute_dtype: torch.dtype,
        chunk_bytes: int,
        num_shards: int = 1,
        num_replicas: int = 1,
        tile_tokens: int | None = None,
        kept: Activations | None = None,
    ) -> None:
        """Take the arguments of `estimate_memory`, and what backward needs where it is known."""
        self.trainer, self.dtype, self.compute_dtype = trainer, dtype, compute_dtype
        self.chunk_bytes, self.num_shards, self.num_replicas = chunk_bytes, num_shards, num_replicas
        self.tile_tokens = tile_tokens
        self.model = build_skeleton(config, dtype=dtype)
        self.in_chunks = chunked_loss_obstacle(self.model) is None
        self.saved = saved_by_quantisation(self.model, adapter)
        self.whole = put_adapter(self.model, adapter)
        self.kept = kept or _kept_for_backward(config, adapter, dtype, compute_dtype)
        self.gathered = gathered_bytes(self.whole, self.model) if num_shards > 1 else 0
        self.optimizer = optimizer_state_bytes(self.whole, trainer.optim) // num_shards
        parameters = list(self.whole.parameters())
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        self.num_parameters = sum(p.numel() for p in parameters)
        self.num_trained = sum(p.numel() for p in trained)
        summed = summed_in_float32(
            trained,
            accumulated=trainer.gradient_accumulation_steps,
            whole_copies=num_replicas if num_shards == 1 else 1,
        )
        wider = sum((torch.float32.itemsize - p.dtype.itemsize) * p.numel() for p in summed)
        narrow = sum(p.nbytes for p in trained)
        self.gradients = (narrow + wider) // num_shards
        self.buckets = narrow if num_replicas > 1 and num_shards == 1 else 0
        self.weights = (sum(p.nbytes for p in parameters) - self.saved) // num_shards
        self.tiling_obstacle = tiling_obstacle(self.model)
        self.sums = summed_over_tiles(self.model)
        self.copies = 0
        if compute_dtype != dtype and num_shards == 1:
            copied = copied_weights(self.model, self.whole, trainer.gradient_checkpointing)
            self.copies = compute_dtype.itemsize * copied

    def at(self, context_length: int) -> MemoryEstimate:
        """Estimate rows, or sequence shards of rows, of `context_length` tokens."""
        return self._at(context_length, self.tiling(context_length).tile_tokens)

    def tiling(self, context_length: int) -> TilingPlan:
        """Say whether such rows are computed in tiles; raise ConfigError where they cannot be."""
        asked, trainer = self.trainer.tiled_mlp, self.trainer
        obstacle = self.tiling_obstacle
        if asked is True and obstacle is not None:
            raise tiling_refused(obstacle)
        if asked is True:
            return TilingPlan(self.tile_tokens, "trainer.tiled_mlp=true", asked_for=True)
        if asked is False:
            obstacle = "trainer.tiled_mlp=false"
        elif self.tile_tokens is None or self._tokens(context_length) <= self.tile_tokens:
            obstacle = "rows are no longer than a tile"
        elif not trainer.gradient_checkpointing:
            obstacle = "without trainer.gradient_checkpointing each MLP would be computed once more"
        elif trainer.torch_compile:
            obstacle = "trainer.torch_compile would leave the MLPs out"
        elif trainer.tensor_parallel_size > 1:
            obstacle = "not verified with trainer.tensor_parallel_size"
        elif obstacle is None and self.kept.tiled is None:
            obstacle = "what they would save cannot be estimated"
        if obstacle is not None:
            return TilingPlan(None, obstacle)
        whole, tiled = (self._at(context_length, t).total for t in (None, self.tile_tokens))
        if tiled > (1 - WORTH_TILING) * whole:
            return TilingPlan(None, f"tiles would save less than {WORTH_TILING:.0%} of the memory")
        saved = f"about {tiled / 2**30:.2f} GiB in place of {whole / 2**30:.2f} GiB"
        return TilingPlan(self.tile_tokens, saved)

    def _tokens(self, context_length: int) -> int:
        """Return the tokens of a batch that one process holds."""
        shard = math.ceil(context_length / self.trainer.context_parallel_size)
        return self.trainer.per_device_train_batch_size * shard

    def _at(self, context_length: int, tile_tokens: int | None) -> MemoryEstimate:
        model, compute_dtype = self.model, self.compute_dtype
        tokens = self._tokens(context_length)
        chunk = 0
        if self.in_chunks:
            chunk = chunk_of_logits(model, tokens, compute_dtype, self.chunk_bytes)
        loss = loss_bytes(model, tokens, self.dtype, compute_dtype, in_chunks=self.in_chunks)
        return MemoryEstimate(
            num_parameters=self.num_parameters,
            num_trainable_parameters=self.num_trained,
            weights=self.weights + self.copies,
            gradients=self.gradients,
            optimizer=self.optimizer,
            activations=activation_bytes(
                self.kept,
                self.trainer,
                tokens,
                chunk=chunk,
                tile=min(tile_tokens, tokens) if tile_tokens is not None else tokens,
                sums=self.sums,
            ),
            logits=chunk + loss,
            buckets=self.buckets,
            gathered=self.gathered,
        )

    def shape(self) -> ModelShape:
        """Return what the operations of the model are counted from."""
        return shape_of(self.model)


def _kept_for_backward(
    config: PretrainedConfig, adapter: AdapterConfig, dtype: torch.dtype, compute_dtype: torch.dtype
) -> Activations:
    kept = count_activations(config, adapter, dtype, compute_dtype)
    if kept is None:
        text = config.get_text_config(decoder=True)
        layer = float(text.hidden_size * compute_dtype.itemsize * ACTIVATION_BYTES // 2)
        layer_input = float(text.hidden_size * dtype.itemsize)
        kept = Activations((layer,) * text.num_hidden_layers, layer_input, layer_input)
    return kept
