"""What a training step will need in memory, estimated before any weight is loaded."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from sft_app.config.schema.adapter import AdapterConfig, AdapterMethod
from sft_app.config.schema.trainer import TrainerConfig
from sft_app.loader.architecture.skeleton import build_skeleton
from sft_app.training.decoder_layers import decoder_layers
from sft_app.training.estimates.optimizer_state import optimizer_state_bytes
from sft_app.training.loss.patched_forward import chunked_loss_obstacle
from sft_app.training.peft.lora import put_adapter
from sft_app.training.peft.quantize import bytes_in_4_bits, layers_to_quantise

ACTIVATION_BYTES = 34
"""Bytes per token, layer and hidden unit kept for the backward pass in 16 bits, attention scores
left out because no kernel in use stores them (Korthikanti et al. 2022, arXiv:2205.05198,
equation 2)."""


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes on one device; a rough guide, mostly right within a third."""

    num_parameters: int
    """Those of the adapter included."""
    num_trainable_parameters: int
    weights: int
    """With the copies in 16 bits that mixed precision keeps of whole matrices during a step."""
    gradients: int
    optimizer: int
    activations: int
    logits: int
    """Of one chunk, where the loss head works in chunks."""
    gathered: int = 0
    """Weights and gradients that FSDP has whole at a time: two layers, and what is around them."""

    @property
    def total(self) -> int:
        """Return the sum of all parts."""
        parts = (self.weights, self.gradients, self.optimizer, self.activations, self.logits)
        return sum(parts) + self.gathered

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
            f"activations {gib(self.activations)}, logits {gib(self.logits)}"
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
) -> MemoryEstimate:
    """Estimate what one process holds in a step over rows, or sequence shards, of the context.

    Frozen weights have neither gradients nor optimizer state; with an adapter, only it has them.
    `dtype` is the parameters', `compute_dtype` that of matrix products, which activations have.
    `chunk_bytes`: float32 logits that the loss head holds at a time. `num_shards`: processes that
    share parameters, gradients and optimizer state (FSDP).
    """
    model = build_skeleton(config, dtype=dtype)
    in_chunks = chunked_loss_obstacle(model) is None
    saved = _saved_by_quantisation(model, adapter)
    whole = put_adapter(model, adapter)
    parameters = list(whole.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    mixed = compute_dtype != dtype and num_shards == 1  # FSDP gathers them so in the first place
    copies = sum(p.numel() for p in parameters if p.dim() > 1) * compute_dtype.itemsize * mixed
    text = config.get_text_config(decoder=True)
    shard = math.ceil(context_length / trainer.context_parallel_size)
    tokens = trainer.per_device_train_batch_size * shard
    # the logits, their float32 copy in the loss, and the gradient of each
    logits = tokens * text.vocab_size * (2 * compute_dtype.itemsize + 8)
    return MemoryEstimate(
        num_parameters=sum(p.numel() for p in parameters),
        num_trainable_parameters=sum(p.numel() for p in trained),
        weights=(sum(p.nbytes for p in parameters) - saved) // num_shards + copies,
        gradients=sum(p.nbytes for p in trained) // num_shards,
        optimizer=optimizer_state_bytes(whole, trainer.optim) // num_shards,
        activations=_activations(trainer, tokens, text, compute_dtype.itemsize),
        # a chunk's logits and their exponentials, or everything where that is less
        logits=min(logits, 2 * chunk_bytes) if in_chunks else logits,
        gathered=_gathered(whole, model) if num_shards > 1 else 0,
    )


def _saved_by_quantisation(model: PreTrainedModel, adapter: AdapterConfig) -> int:
    if adapter.method is not AdapterMethod.qlora:
        return 0
    weights = [layer.weight for layer in layers_to_quantise(model).values()]
    return sum(w.nbytes - bytes_in_4_bits(w, double=adapter.double_quantization) for w in weights)


def _gathered(trained: nn.Module, model: PreTrainedModel) -> int:
    """Count the layer in use and the one fetched meanwhile; embedding and head all the time.

    A gradient is whole until it is reduced, right after its layer's backward.
    """

    def nbytes(module: nn.Module) -> int:
        return sum(p.nbytes * (2 if p.requires_grad else 1) for p in module.parameters())

    layers = [nbytes(layer) for layer in decoder_layers(model)]
    return 2 * max(layers, default=0) + nbytes(trained) - sum(layers)


def _activations(trainer: TrainerConfig, tokens: int, text: PretrainedConfig, itemsize: int) -> int:
    """Count bytes kept for backward: whole layers, or the input of those that are recomputed."""
    layers = text.num_hidden_layers
    layer_input = tokens * text.hidden_size * itemsize
    whole_layer = layer_input * ACTIVATION_BYTES // 2
    if not trainer.gradient_checkpointing:
        return layers * whole_layer
    settings = trainer.gradient_checkpointing_kwargs
    recomputed = math.ceil(layers / settings.get("every_n_layers", 1))
    kept = 0 if settings.get("offload") else recomputed * layer_input
    return (layers - recomputed) * whole_layer + kept + whole_layer
