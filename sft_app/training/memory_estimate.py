"""What a training step will need in memory, estimated before any weight is loaded."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

from sft_app.config.trainer import TrainerConfig

STATE_BYTES_PER_PARAMETER = {
    "sgd": 0.0,
    "adafactor": 0.1,
    "adamw_8bit": 2.0,
    "adamw_bnb_8bit": 2.0,
    "paged_adamw_8bit": 2.0,
    "lion_8bit": 1.0,
    "lion_32bit": 4.0,
}
"""Optimizer state; optimizers that are not listed keep two moments in the parameters' dtype."""

ACTIVATION_BYTES = 34
"""Bytes per token, layer and hidden unit kept for the backward pass in 16 bits, attention scores
left out because no kernel in use stores them (Korthikanti et al. 2022, arXiv:2205.05198,
equation 2)."""


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes on one device, without sharding; a rough guide, mostly right within a third."""

    num_parameters: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "total": self.total}

    def __str__(self) -> str:
        def gib(number: int) -> str:
            return f"{number / 2**30:.2f} GiB"

        return (
            f"memory          about {gib(self.total)} per process: weights {gib(self.weights)}, "
            f"gradients {gib(self.gradients)}, optimizer {gib(self.optimizer)}, "
            f"activations {gib(self.activations)}, logits {gib(self.logits)}"
        )


def estimate_memory(
    config: PretrainedConfig, trainer: TrainerConfig, *, context_length: int, dtype: torch.dtype
) -> MemoryEstimate:
    """Full fine-tuning with rows of `context_length` tokens, one process, nothing sharded."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    text = config.get_text_config(decoder=True)
    count = model.num_parameters()
    itemsize = dtype.itemsize
    tokens = trainer.per_device_train_batch_size * context_length
    state = STATE_BYTES_PER_PARAMETER.get(trainer.optim, 2.0 * itemsize)
    per_layer = ACTIVATION_BYTES * tokens * text.hidden_size * itemsize // 2
    layers = text.num_hidden_layers
    kept_per_layer = tokens * text.hidden_size * itemsize
    activations = (
        layers * kept_per_layer + per_layer
        if trainer.gradient_checkpointing
        else layers * per_layer
    )
    return MemoryEstimate(
        num_parameters=count,
        weights=count * itemsize,
        gradients=count * itemsize,
        optimizer=int(count * state),
        activations=activations,
        # the logits, their float32 copy in the loss, and the gradient of each
        logits=tokens * text.vocab_size * (2 * itemsize + 8),
    )
