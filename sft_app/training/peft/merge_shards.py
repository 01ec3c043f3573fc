"""LoRA over shards: each weight of the plain model by itself, its part of the adapter added.

By PEFT's own code for one layer, on the CPU of the process that keeps the weight: the numbers are
those of merging a whole model.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from sft_app.training.peft.lora import plain_model

_BASE = "base_layer"


def plain_state(trained: nn.Module) -> dict[str, Tensor] | None:
    """Return the tensors of the model inside PEFT's wrapper under the plain model's names.

    Those that an adapter changes are as they are without it. None for adapters over more than
    whole layers (rows of added tokens), which are merged in one piece.
    """
    wrapper: Any = trained  # PEFT's
    config = wrapper.active_peft_config
    if config.trainable_token_indices or config.modules_to_save or config.target_parameters:
        return None
    inner = plain_model(trained)
    own = {
        f"{layer}.{name}": _in_plain_model(layer, name)
        for layer, module in _adapted_layers(inner).items()
        for name in module.state_dict()
    }
    state: dict[str, Tensor] = inner.state_dict(keep_vars=True)
    plain = {own.get(name, name): tensor for name, tensor in state.items()}
    return {name: tensor for name, tensor in plain.items() if name is not None}


def gather_merged(trained: nn.Module) -> Callable[[str], Callable[[], Tensor]]:
    """Return what gathers a weight of the plain model by name, with all ranks.

    What that returns gives the weight, adapter added, and is called by who keeps it. It raises
    ValueError where the adapter makes a weight that is no number.
    """
    from peft import get_peft_model

    wrapper: Any = trained  # PEFT's
    inner = plain_model(trained)
    adapted = _adapted_layers(inner)
    with torch.device("meta"):
        twin: Any = get_peft_model(type(inner)(inner.config), wrapper.active_peft_config)
    layers = twin.get_base_model()
    state = inner.state_dict()

    def gather(name: str) -> Callable[[], Tensor]:
        layer, _, leaf = name.rpartition(".")
        if layer not in adapted or leaf != "weight":
            whole = gather_one(state[f"{layer}.{_BASE}.{leaf}" if layer in adapted else name])
            return lambda: whole
        parts = {
            part: gather_one(state[f"{layer}.{part}"])
            for part in adapted[layer].state_dict()
            if part != f"{_BASE}.bias"
        }
        return lambda: _merge(layers.get_submodule(layer), parts)

    return gather


def gather_one(tensor: Tensor) -> Tensor:
    """Return a tensor whole, where it is; a collective of the ranks that share it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gather_adapter(trained: nn.Module) -> dict[str, Tensor]:
    """Return what is trained, whole and on the CPU, on every rank; a collective."""
    return {
        name: gather_one(parameter.detach()).cpu()
        for name, parameter in trained.named_parameters()
        if parameter.requires_grad
    }


def _merge(layer: Any, parts: dict[str, Tensor]) -> Tensor:
    """Let PEFT merge one layer of the twin, and take its weight away again."""
    layer.load_state_dict({n: t.cpu() for n, t in parts.items()}, strict=False, assign=True)
    layer.merge(safe_merge=True)
    merged: Tensor = layer.get_base_layer().weight.detach()
    layer.to_empty(device="meta")
    return merged


def _adapted_layers(inner: nn.Module) -> dict[str, nn.Module]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {name: m for name, m in inner.named_modules() if isinstance(m, BaseTunerLayer)}


def _in_plain_model(layer: str, name: str) -> str | None:
    """Return the plain model's name of a tensor of an adapted layer; None for the adapter's own."""
    head, _, leaf = name.rpartition(".")
    return f"{layer}.{leaf}" if head == _BASE else None
