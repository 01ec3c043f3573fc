"""LoRA: train small matrices beside the frozen ones, and add them in at the end."""

import logging
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sft_app.common.errors import ConfigError
from sft_app.common.processes import is_installed
from sft_app.config.schema.adapter import AdapterConfig, AdapterMethod
from sft_app.training.peft.lora_targets import (
    ALL_LINEAR,
    layers_meant,
    set_targets,
    stacked_experts,
)

log = logging.getLogger(__name__)


def add_adapter(
    model: PreTrainedModel,
    config: AdapterConfig,
    *,
    seed: int,
    new_token_ids: Sequence[int] = (),
) -> nn.Module:
    """Call `put_adapter`, with the same result on every rank, and log a line about it."""
    torch.manual_seed(seed)  # whatever was drawn before
    meant = [*layers_meant(model, config.target_modules), *stacked_experts(model)]
    trained = put_adapter(model, config, new_token_ids)
    if trained is not model:
        wrapper: Any = trained
        count, total = wrapper.get_nb_trainable_parameters()
        log.info(
            "adapter         LoRA of rank %d on %s%s, %s of %s parameters are trained%s",
            config.rank,
            ", ".join(config.target_modules),
            f" and the rows of {len(new_token_ids)} added tokens" if new_token_ids else "",
            f"{count:,}",
            f"{total:,}",
            _left_as_they_are(meant, wrapper),
        )
    return trained


def _left_as_they_are(meant: Sequence[str], wrapper: Any) -> str:
    """Say which of the layers and experts that were meant have no adapter, by their last names."""
    tuner = wrapper.base_model
    found = (*tuner.targeted_module_names, *getattr(tuner, "targeted_parameter_names", ()))
    adapted = {name.replace(".base_layer", "").removesuffix(".weight") for name in found}
    left = dict.fromkeys(".".join(n.split(".")[-2:]) for n in meant if n not in adapted)
    return f"; left as they are: {', '.join(left)}" if left else ""


def put_adapter(
    model: PreTrainedModel, config: AdapterConfig, new_token_ids: Sequence[int] = ()
) -> nn.Module:
    """Return the model itself, or PEFT's wrapper with only the adapter trainable.

    PEFT puts its layers into `model`, which goes on being the model inside the wrapper. The rows of
    `new_token_ids`, in the embedding and in the head, are trained beside the adapter: nothing else
    would ever move them from the mean at which they start.

    Raises ConfigError when peft is missing, a target names no layer of the model, or one whose
    weight is another layer's, too.
    """
    if config.method is AdapterMethod.none:
        return model
    if not is_installed("peft"):
        raise ConfigError(
            f"adapter.method={config.method} needs the peft package: "
            f"pip install 'sft-app[{config.method}]'"
        )
    from peft import LoraConfig, TaskType, get_peft_model

    targets, tied = config.target_modules, _tied_layers(model)
    lora = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        use_rslora=config.rank_stabilised,
        trainable_token_indices=_rows_to_train(model, new_token_ids) or None,
    )
    try:
        set_targets(model, lora, targets, quantised=config.method is AdapterMethod.qlora)
        with warnings.catch_warnings():  # PEFT asks for what transformers has renamed
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")
            wrapped = get_peft_model(model, lora)
    except ValueError as error:
        raise ConfigError(f"adapter.target_modules={targets}: {error}") from error
    assert isinstance(wrapped, nn.Module)
    _check_targets(wrapped, targets, tied)
    return wrapped


def _tied_layers(model: PreTrainedModel) -> list[str]:
    """Name the embedding and the head where they have one weight."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is None or head.weight is not embedding.weight:
        return []
    return [name for name, module in model.named_modules() if module in (embedding, head)]


def _check_targets(wrapper: Any, targets: list[str], tied: list[str]) -> None:
    """Raise ConfigError for a name without a layer, which PEFT passes over beside others.

    And for a tied layer: the adapter is one layer's, and merged it would be in both.
    """
    if targets == ALL_LINEAR:
        return
    tuner, config = wrapper.base_model, wrapper.active_peft_config
    for wanted, found in (
        (config.target_modules, tuner.targeted_module_names),
        (config.target_parameters, getattr(tuner, "targeted_parameter_names", [])),
    ):
        for name in sorted(wanted or ()):  # as PEFT writes them: stacked experts are parameters
            if not any(layer == name or layer.endswith(f".{name}") for layer in found):
                raise ConfigError(
                    f"adapter.target_modules={targets}: the model has no layer {name} for an "
                    "adapter; write names of its linear layers, or [all-linear] alone for all."
                )
    shared = sorted(set(tied) & set(tuner.targeted_module_names))
    if shared:
        raise ConfigError(
            f"adapter.target_modules={targets}: {shared[0]} has its weight in common with "
            f"{next(name for name in tied if name != shared[0])}, and an adapter on one of them "
            "would change both when it is merged into what is saved; leave it out."
        )


def _rows_to_train(model: PreTrainedModel, token_ids: Sequence[int]) -> dict[str, list[int]]:
    """Return rows by layer, as PEFT wants it: the embedding's, and an untied head's."""
    if not token_ids:
        return {}
    names = {module: name for name, module in model.named_modules()}
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    rows = {names[embedding]: list(token_ids)}
    if head is not None and head.weight is not embedding.weight:
        rows[names[head]] = list(token_ids)
    return rows


def merge_gathered(model: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the plain model's weights from gathered ones of a sharded model, adapter added.

    What is sharded cannot be merged in place: a twin without memory takes the weights over.
    """
    if isinstance(model, PreTrainedModel):
        return weights
    from peft import get_peft_model

    wrapper: Any = model  # PEFT's
    inner = wrapper.get_base_model()
    with torch.device("meta"):
        twin = get_peft_model(type(inner)(inner.config), wrapper.active_peft_config)
    twin.load_state_dict(weights, assign=True)
    return dict(merge_adapter(twin).state_dict())


def merge_adapter(model: nn.Module) -> PreTrainedModel:
    """Return the plain model, adapter added to its weights; one without an adapter as it is."""
    if isinstance(model, PreTrainedModel):
        return model
    wrapper: Any = model  # PEFT's
    merged = wrapper.merge_and_unload(safe_merge=True)  # safe: a NaN in the adapter is an error
    assert isinstance(merged, PreTrainedModel)
    return merged


def plain_model(model: nn.Module) -> PreTrainedModel:
    """Return the loaded model, also from inside PEFT's wrapper."""
    wrapper: Any = model
    return model if isinstance(model, PreTrainedModel) else wrapper.get_base_model()
