"""How many floating-point operations the arithmetic of a batch takes.

For a document of n tokens, forward and backward, with N parameters that matrices multiply by, L
layers and h = heads * head size (Kaplan et al. 2020, arXiv:2001.08361, plus causal attention):

    6 * N * n + 6 * L * h * n^2

The causal half of attention is counted once; where a window bounds it, only the window. The head
counts for supervised tokens alone. What is recomputed to save memory is not counted: it is no
progress. Frozen matrices need no gradient of their own, and count 4 in the place of 6; towers for
images and sound, which text never goes through, count nothing. Nor does padding, nor do
convolutions and scans of hybrids, beside their matrices.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from sft_app.loader.architecture.skeleton import tower_parameters

NOT_ATTENDING = ("linear_attention", "conv", "mamba", "recurrent", "moe", "mlp")
"""Kinds of layers of hybrids whose operations grow with a document's length, and not its square."""
EXPERTS_PER_TOKEN = ("num_experts_per_tok", "top_k_experts", "moe_topk")
"""What configurations call it: most families, Gemma 4, Aria."""


@dataclass(frozen=True)
class AttendingLayer:
    """What the attention of one layer is counted from."""

    size: int
    """h: heads * head size; where values are of another size than queries and keys, the mean."""
    window: int | None = None
    """The keys that a query may see; None: all before it."""
    is_chunked: bool = False
    """The window does not slide: a query sees its own chunk of that many tokens (Llama 4)."""


@dataclass(frozen=True)
class ModelShape:
    """What the operations of a model are counted from."""

    body_factor: int
    """Sum over the matrices of the body of their size times 6 (trained) or 4 (frozen)."""
    head_factor: int
    """The same of the head."""
    attention: tuple[AttendingLayer, ...]
    """The layers that attend."""


def flops_of_batch(shape: ModelShape, lengths: Sequence[int], supervised_tokens: int) -> int:
    """Count forward and backward over documents of these lengths (tokens)."""
    flops = shape.body_factor * sum(lengths) + shape.head_factor * supervised_tokens
    documents = np.asarray(lengths, dtype=np.int64)
    for layer, layers in Counter(shape.attention).items():  # most layers are alike
        flops += 6 * layer.size * layers * _twice_the_pairs(documents, layer)
    return flops


def _twice_the_pairs(lengths: np.ndarray, layer: AttendingLayer) -> int:
    """Count query-key pairs of documents, times two: n^2 when causal."""
    if layer.window is not None and layer.is_chunked:
        whole, rest = np.divmod(lengths, layer.window)
        return int((whole * layer.window**2 + rest**2).sum())
    seen = lengths if layer.window is None else np.minimum(lengths, layer.window)
    return int((2 * lengths * seen - seen**2).sum())


def shape_of(model: PreTrainedModel) -> ModelShape:
    """Count the model's matrices; of a mixture, the experts that one token meets."""
    config = model.config.get_text_config(decoder=True)
    head = model.get_output_embeddings()
    head_parameters = set() if head is None else set(head.parameters())
    embeddings = {
        parameter
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for parameter in module.parameters()
    }
    not_met = embeddings | set(tower_parameters(model))
    shares = _shares_of_experts(model, _experts_per_token(config))
    body = head_factor = 0
    for name, parameter in model.named_parameters():
        factor = _num_weights(parameter) * (6 if parameter.requires_grad else 4)
        if parameter.dim() < 2 or name.endswith("bias"):  # one vector for each expert
            continue
        if parameter in head_parameters:  # tied or not
            head_factor += factor
        elif parameter not in not_met:
            body += int(factor * shares.get(parameter, 1.0))
    return ModelShape(body, head_factor, _attending_layers(config))


def _attending_layers(config: PretrainedConfig) -> tuple[AttendingLayer, ...]:
    """Return the layers that attend; none of Mamba, RWKV, xLSTM."""
    kinds = getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None)
    if getattr(config, "is_heterogeneous", False):  # Gemma 4: its layers' heads differ in size
        layers = list(config.per_layer_config)
    else:
        layers = [config] * (len(kinds) if kinds else config.num_hidden_layers)
    found = [
        _attending_layer(layer, kind)
        for layer, kind in zip(layers, kinds or [None] * len(layers), strict=True)
        if kind not in NOT_ATTENDING
    ]
    return tuple(layer for layer in found if layer.size)


def _attending_layer(config: PretrainedConfig, kind: str | None) -> AttendingLayer:
    """Describe a layer of a `kind`; None: all layers are of one."""
    size = _attention_size(config)
    if kind == "chunked_attention":
        return AttendingLayer(size, getattr(config, "attention_chunk_size", None), is_chunked=True)
    is_windowed = kind in (None, "sliding_attention") and getattr(
        config, "use_sliding_window", True
    )
    return AttendingLayer(size, getattr(config, "sliding_window", None) if is_windowed else None)


def _attention_size(config: PretrainedConfig) -> int:
    """Return heads * head size; 0 where no layer attends (Mamba, RWKV, xLSTM).

    With multi-head latent attention `head_dim` is only the part of a key that is rotated.
    """
    heads = getattr(config, "num_attention_heads", None)
    if not isinstance(heads, int):
        return 0
    rotated, unrotated = (getattr(config, f"qk_{part}_head_dim", None) for part in ("rope", "nope"))
    if rotated and unrotated:
        keys = rotated + unrotated
    else:
        keys = getattr(config, "head_dim", None) or config.hidden_size // heads
    values = getattr(config, "v_head_dim", None) or keys
    return int(heads * (keys + values) // 2)


def _num_weights(parameter: torch.Tensor) -> int:
    """Count the weights, also of a matrix in 4 bits, which is stored as bytes."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else math.prod(state.shape)


def _experts_per_token(config: PretrainedConfig) -> float | None:
    """Return how many experts a token meets; the mean where layers differ (Hunyuan)."""
    chosen = next((n for key in EXPERTS_PER_TOKEN if (n := getattr(config, key, None))), None)
    return sum(chosen) / len(chosen) if isinstance(chosen, list | tuple) else chosen


def _shares_of_experts(model: nn.Module, chosen: float | None) -> dict[nn.Parameter, float]:
    """Return, for what belongs to one expert of many, the share of tokens that meet it.

    Experts are stacked [E, ., .]; in older code of models, modules of their own.
    """
    if not chosen:
        return {}
    found = {p: min(1.0, chosen / p.shape[0]) for p in model.parameters() if p.dim() == 3}
    for module in model.modules():
        experts = getattr(module, "experts", None)
        if isinstance(experts, nn.ModuleList):
            found |= dict.fromkeys(experts.parameters(), min(1.0, chosen / len(experts)))
    return found
