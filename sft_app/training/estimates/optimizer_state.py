"""How many bytes an optimizer keeps for a parameter."""

import math
from collections.abc import Iterator

from torch import nn

from sft_app.config.validation.check_trainer import BITSANDBYTES

BYTES_PER_PARAMETER = {
    "sgd": 0.0,
    "adafactor": 0.1,
    "muon": 4.0,
    "adamw_torch_8bit": 2.0,
    "adamw_torch_4bit": 1.0,
}
"""Optimizers that are listed nowhere keep two moments in the parameters' dtype."""

MOMENTS = {"adamw": 2, "ademamix": 3, "lion": 1, "rmsprop": 1}
"""Of bitsandbytes' families."""
SMALLEST_IN_8_BITS = 4096
"""Elements: the moments of smaller parameters stay in 32 bits."""
BLOCK = 256
"""8-bit elements that share a 32-bit constant."""


def optimizer_state_bytes(trained: nn.Module, optim: str) -> int:
    """Return the bytes for all trainable parameters, but for tables of a kilobyte."""
    if optim not in BITSANDBYTES:
        return int(sum(_bytes(parameter, optim) for parameter, _ in _trainable(trained)))
    (moments,) = {number for family, number in MOMENTS.items() if family in optim}
    return sum(
        moments * _bytes_of_moment(parameter.numel(), eight_bits="8bit" in optim and not embeds)
        for parameter, embeds in _trainable(trained)
    )


def _trainable(model: nn.Module) -> Iterator[tuple[nn.Parameter, bool]]:
    """Yield each once, and whether it is an embedding's: there the Trainer asks for 32 bits."""
    embeddings = {
        parameter
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for parameter in module.parameters()
    }
    for parameter in model.parameters():
        if parameter.requires_grad:
            yield parameter, parameter in embeddings


def _bytes(parameter: nn.Parameter, optim: str) -> float:
    two_moments = 2.0 * parameter.dtype.itemsize
    return parameter.numel() * BYTES_PER_PARAMETER.get(optim, two_moments)


def _bytes_of_moment(numel: int, *, eight_bits: bool) -> int:
    if not eight_bits or numel < SMALLEST_IN_8_BITS:
        return 4 * numel
    return numel + 4 * math.ceil(numel / BLOCK)
