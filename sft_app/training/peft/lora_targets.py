"""Which layers get an adapter: all that were asked for, whatever PEFT makes of their names.

Since transformers 5 the experts of a mixture are stacked parameters. So that older adapters of some
families can be loaded, PEFT takes certain names, such as `down_proj`, for their experts' matrices,
and then for nothing else: dense layers and shared experts of the same names would have no adapter.
What it would leave out is named as parameters, which it leaves alone.
"""

import copy
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel

from sft_app.common.errors import ConfigError
from sft_app.compat import model_internals
from sft_app.loader.architecture.skeleton import tower_layers
from sft_app.training.peft.uncalled_layers import uncalled_layers

if TYPE_CHECKING:
    from peft import LoraConfig

ALL_LINEAR = ["all-linear"]


def set_targets(
    model: PreTrainedModel, lora: "LoraConfig", targets: Sequence[str], *, quantised: bool
) -> None:
    """Write into `lora` which layers and parameters `targets` (adapter.target_modules) mean.

    all-linear: every linear layer but the head, routers, towers beside the text's and layers whose
    adapter would not be called; stacked experts where PEFT knows them by the names of their linear
    layers in transformers 4. Names mean linear layers, embeddings and stacked experts. `quantised`:
    linear layers are no parameters, and those that PEFT would leave out stay as they are.

    Raises ConfigError for a layer whose adapter would not be called, and for dropout beside a
    parameter's adapter; ValueError is PEFT's.
    """
    everything = list(targets) == ALL_LINEAR
    if everything:
        lora.target_modules = "all-linear"
        lora.exclude_modules = _excluded(model) or None
    else:
        _check_calls(model, targets)
        lora.target_modules = list(targets)
    converted = copy.deepcopy(lora)
    model_internals.rename_targets(converted, model)
    if converted.target_parameters:
        lora.target_modules = sorted(converted.target_modules or ())
        lora.rank_pattern, lora.alpha_pattern = converted.rank_pattern, converted.alpha_pattern
        parameters = set(converted.target_parameters)
        if everything:  # routers are no linear layers any more
            parameters = {name for name in parameters if not name.endswith(".weight")}
        if not quantised:
            meant = layers_meant(model, targets)
            lost = [name for name in meant if not is_named(name, lora.target_modules)]
            parameters.update(f"{name}.weight" for name in lost)
        lora.target_parameters = sorted(parameters)
    elif not everything and (experts := _names_of_experts(model, targets)):
        modules = [name for name, _ in model.named_modules()]
        lora.target_modules = [t for t in targets if t not in experts or _names_any(t, modules)]
        lora.target_parameters = experts
    if lora.target_parameters and lora.lora_dropout:
        raise ConfigError(
            f"adapter.dropout={lora.lora_dropout}: with adapter.target_modules={list(targets)} the "
            f"adapter is beside parameters of this {model.config.model_type} ("
            f"{', '.join(lora.target_parameters[:2])}, ...), which have no input to drop; set "
            "adapter.dropout=0, or name layers without them."
        )


def layers_meant(model: PreTrainedModel, targets: Sequence[str]) -> list[str]:
    """Return the names of the linear layers that `targets` mean; the head is not one of all."""
    found = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    if list(targets) != ALL_LINEAR:
        return [name for name in found if is_named(name, targets)]
    head, excluded = model.get_output_embeddings(), _excluded(model)
    return [name for name, m in found.items() if m is not head and name not in excluded]


def stacked_experts(model: nn.Module) -> list[str]:
    """Return the names of the parameters that hold the matrices of all experts of a layer."""
    named = model.named_parameters()
    return [name for name, p in named if p.ndim == 3 and "experts" in name.split(".")]


def is_named(name: str, targets: Iterable[str]) -> bool:
    """Tell whether one of `targets` names it, whole or by its last parts."""
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _names_any(target: str, names: Iterable[str]) -> bool:
    return any(is_named(name, [target]) for name in names)


def _names_of_experts(model: PreTrainedModel, targets: Sequence[str]) -> list[str]:
    experts = stacked_experts(model)
    return [target for target in targets if _names_any(target, experts)]


def _excluded(model: PreTrainedModel) -> list[str]:
    """Return the linear layers that all-linear does not mean, beside the head."""
    return [*_routers(model), *uncalled_layers(model), *tower_layers(model)]


def _routers(model: PreTrainedModel) -> list[str]:
    """Return layers of a family's own kind of linear layer that return no tensor of their size."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and type(module).__module__.startswith("transformers.models")
        and not _maps_to_out_features(module)
    ]


def _maps_to_out_features(layer: nn.Linear) -> bool:
    """Tell whether it returns [1, out_features] for [1, in_features]; tried without memory."""
    weights = {name: torch.empty_like(p, device="meta") for name, p in layer.named_parameters()}
    row = torch.empty(1, layer.in_features, device="meta", dtype=layer.weight.dtype)
    try:
        with torch.no_grad():
            answer = functional_call(layer, weights, (row,))
    except (TypeError, ValueError, RuntimeError):  # it wants to be told more
        return False
    return isinstance(answer, Tensor) and answer.shape == (1, layer.out_features)


def _check_calls(model: PreTrainedModel, targets: Sequence[str]) -> None:
    """Raise ConfigError for a target whose adapter would not be called."""
    for name in uncalled_layers(model):
        if is_named(name, targets):
            family = type(model.get_submodule(name.rpartition(".")[0])).__name__
            raise ConfigError(
                f"adapter.target_modules={list(targets)}: {family} reads the weight of {name} past "
                "the layer, in its kernels or beside them, so that an adapter on it would not be "
                "trained; leave it out."
            )
