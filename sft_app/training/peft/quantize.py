"""Frozen weights in 4 bits (QLoRA, Dettmers et al. 2023, arXiv:2305.14314).

Blocks of 64 weights are rounded to 16 levels times the block's largest magnitude; with double
quantisation these constants are 8-bit numbers themselves. Embedding, head and norms stay as they
are, and so does what is no plain linear layer, such as the stacked experts of a mixture.
"""

import logging
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from sft_app.common.errors import ConfigError
from sft_app.config.schema.adapter import AdapterConfig
from sft_app.loader.model.broadcast import places_of
from sft_app.training.parallel.distribute_weights import (
    broadcast_buffers,
    broadcast_weights,
    move_to_meta,
    replace,
)

log = logging.getLogger(__name__)

BLOCK = 64
"""Weights that share a constant."""
CONSTANTS_PER_GROUP = 256
"""With double quantisation: constants that share one of their own."""


def layers_to_quantise(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """Return every plain linear layer but the head, by name.

    Rows that are not whole blocks stay as they are: no published model has them, and with a block
    in two rows bitsandbytes' CPU kernels give wrong numbers (0.50.2).
    """
    head = model.get_output_embeddings()
    return {
        name: module
        for name, module in model.named_modules()
        if type(module) is nn.Linear and module is not head and module.in_features % BLOCK == 0
    }


def bytes_in_4_bits(weight: torch.Tensor, *, double: bool) -> int:
    """Return what a weight takes in bytes, its constants included."""
    constants = -(-weight.numel() // BLOCK)
    groups = -(-constants // CONSTANTS_PER_GROUP)
    return weight.numel() // 2 + (constants + 4 * groups if double else 4 * constants)


def quantise(model: PreTrainedModel, config: AdapterConfig, device: torch.device) -> None:
    """Move `model` to `device`, its linear layers in 4 bits; in place.

    Rank 0 holds the weights, in the host's memory; every rank gets them one by one, and quantises
    them on its device, which never holds more than one of them in full. Raises ConfigError when
    there is no layer to quantise.
    """
    import bitsandbytes

    layers = layers_to_quantise(model)
    if not layers:
        raise ConfigError(
            f"adapter.method=qlora: {type(model).__name__} has no linear layers in rows of "
            f"{BLOCK} weights to quantise; use adapter=lora."
        )
    num_parameters = sum(p.numel() for p in model.parameters())
    num_quantised = sum(layer.weight.numel() for layer in layers.values())
    dtype = model.dtype
    settings: dict[str, Any] = {
        "compress_statistics": config.double_quantization,
        "quant_type": config.quantization.value,
    }
    weights = move_to_meta(model)
    for name, layer in layers.items():
        replacement = bitsandbytes.nn.Linear4bit(
            layer.in_features,
            layer.out_features,
            bias=layer.bias is not None,
            compute_dtype=layer.weight.dtype,
            device="meta",
            **settings,
        )
        replacement.bias = layer.bias
        # A CPU's packed format for inference: it has no gradient, and training does not undo it.
        replacement.support_avx512bf16_for_cpu = False
        model.set_submodule(name, replacement)
    model.requires_grad_(False)
    places = places_of(model)
    for name, whole in broadcast_weights(model, weights, device):
        parameter = model.get_parameter(name)
        new = nn.Parameter(whole, requires_grad=False)
        if isinstance(parameter, bitsandbytes.nn.Params4bit):
            ((owner, _),) = places[id(parameter)]
            new = bitsandbytes.nn.Params4bit(
                whole, requires_grad=False, blocksize=BLOCK, module=owner, **settings
            ).to(device)
        replace(places[id(parameter)], new)
    broadcast_buffers(model, device)
    # PEFT puts its layer for quantised weights into such models only.
    model.is_loaded_in_4bit = True
    log.info(
        "quantisation    %s%s: %.1f%% of %.1fM parameters in 4 bits, the others in %s",
        config.quantization,
        " with quantised constants" if config.double_quantization else "",
        100 * num_quantised / num_parameters,
        num_parameters / 1e6,
        str(dtype).removeprefix("torch."),
    )
