"""LoRA over shards: each weight of the plain model by itself, its part of the adapter added.

By PEFT's own code for one layer, on the CPU of the process that keeps the weight: the numbers are
those of merging a whole model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from sft_app.training.peft.lora import plain_model

_BASE = "base_layer"
_MATRICES = "lora_"


def plain_state(trained: nn.Module) -> dict[str, Tensor] | None:
    """Return the tensors of the model inside PEFT's wrapper under the plain model's names.

    Those that an adapter changes are as they are without it. None for adapters over more than
    whole weights (rows of added tokens), which are merged in one piece.
    """
    wrapper: Any = trained  # PEFT's
    config = wrapper.active_peft_config
    if config.trainable_token_indices or config.modules_to_save:
        return None
    inner = plain_model(trained)
    chains = _adapted_layers(inner)
    state: dict[str, Tensor] = inner.state_dict(keep_vars=True)
    plain = {_in_plain_model(name, chains): tensor for name, tensor in state.items()}
    if any(f".{_BASE}." in f".{name}." for name in plain):  # an adapted layer inside of another
        return None
    return {name: tensor for name, tensor in plain.items() if name is not None}


def gather_merged(trained: nn.Module) -> Callable[[str], Callable[[], Tensor]]:
    """Return what gathers a weight of the plain model by name, with all ranks.

    What that returns gives the weight, adapter added, and is called by who keeps it. It raises
    ValueError where the adapter makes a weight that is no number.
    """
    from peft import get_peft_model

    wrapper: Any = trained  # PEFT's
    inner = plain_model(trained)
    chains = _adapted_layers(inner)
    with torch.device("meta"):
        twin: Any = get_peft_model(type(inner)(inner.config), wrapper.active_peft_config)
    layers = twin.get_base_model()
    state = inner.state_dict()
    names = {_in_plain_model(name, chains): name for name in state}
    adapters = {
        f"{outermost}.{adapter.weight}": adapter
        for outermost, chain in chains.items()
        for adapter in chain
    }

    def gather(name: str) -> Callable[[], Tensor]:
        weight = gather_one(state[names[name]])
        adapter = adapters.get(name)
        if adapter is None:
            return lambda: weight
        own = (n for n in state if n.startswith(f"{adapter.layer}.{_MATRICES}"))
        parts = {n.removeprefix(f"{adapter.layer}."): gather_one(state[n]) for n in own}
        parts[names[name].removeprefix(f"{adapter.layer}.")] = weight
        return lambda: _merge(layers.get_submodule(adapter.layer), adapter.weight, parts)

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


def _merge(layer: Any, weight: str, parts: dict[str, Tensor]) -> Tensor:
    """Let PEFT merge one layer of the twin, and take its weight away again."""
    layer.load_state_dict({n: t.cpu() for n, t in parts.items()}, strict=False, assign=True)
    layer.merge(safe_merge=True)
    merged: Tensor = getattr(layer.get_base_layer(), weight).detach()
    layer.to_empty(device="meta")
    layer.merged_adapters.clear()  # it may be asked for again
    return merged


@dataclass(frozen=True)
class _Adapter:
    """PEFT's matrices for one weight."""

    layer: str
    """PEFT's layer around the adapted one, or around another of PEFT's."""
    weight: str
    """Of the adapted layer."""


def _adapted_layers(inner: nn.Module) -> dict[str, list[_Adapter]]:
    """Return the adapters of each adapted layer, from the outermost in.

    A layer with several adapted weights, as stacked experts are, is wrapped once for each.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    chains: dict[str, list[_Adapter]] = {}
    outermost_of: dict[str, str] = {}
    for name, module in inner.named_modules():  # the outer ones first
        if isinstance(module, BaseTunerLayer):
            outermost_of[name] = outermost_of.get(name.removesuffix(f".{_BASE}"), name)
            adapter = _Adapter(name, getattr(module, "parameter_name", "weight"))
            chains.setdefault(outermost_of[name], []).append(adapter)
    return chains


def _in_plain_model(name: str, chains: dict[str, list[_Adapter]]) -> str | None:
    """Return the plain model's name of a tensor; None for the adapter's own."""
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        outermost = ".".join(parts[:end])
        if outermost in chains:
            depth = len(chains[outermost])
            if parts[end : end + depth] != [_BASE] * depth:
                return None
            return ".".join([outermost, *parts[end + depth :]])
    return name
