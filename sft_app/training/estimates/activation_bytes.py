"""The bytes of activations at the peak of a step, from what each layer keeps for a token."""

import math

from sft_app.config.schema.trainer import TrainerConfig
from sft_app.training.estimates.activations import Activations

IN_BACKWARD = 0.3
"""Of what the largest layer keeps: gradients that stand beside it while it goes backward."""

FETCHED = 2
"""Inputs of layers that the device holds of those on the host: in use, and fetched meanwhile."""


def activation_bytes(
    kept: Activations, trainer: TrainerConfig, tokens: int, *, chunk: int, tile: int, sums: int
) -> int:
    """Count bytes kept for backward: whole layers, or the input of those that are recomputed.

    While a layer goes backward there are gradients of what it kept as well (`IN_BACKWARD`); then
    the `chunk` of logits (bytes) is gone. With a `tile` of fewer than all tokens, what is inside of
    MLPs and norms is there for one tile at a time, beside the `sums` (bytes) of gradients.
    """
    inside = 0.0
    if tile < tokens and kept.tiled is not None:
        per_token = max(a - b for a, b in zip(kept.layers, kept.tiled.layers, strict=True))
        inside = (1 + IN_BACKWARD) * per_token * tile + sums
        kept = kept.tiled
    largest = max(kept.layers)
    if not trainer.gradient_checkpointing:
        always, backward = sum(kept.layers), IN_BACKWARD * largest
    else:
        settings = trainer.gradient_checkpointing_kwargs
        every = settings.get("every_n_layers", 1)
        recomputed = math.ceil(len(kept.layers) / every)
        on_device = min(FETCHED, recomputed) if settings.get("offload") else recomputed
        inputs = on_device * kept.layer_input
        whole = sum(kept.layers) * (1 - recomputed / len(kept.layers))
        always, backward = whole + inputs, (1 + IN_BACKWARD) * largest
    return int(tokens * (kept.around + always) + max(0.0, tokens * backward + inside - chunk))
