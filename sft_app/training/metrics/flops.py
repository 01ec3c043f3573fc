"""How many floating-point operations the arithmetic of a batch takes.

For a document of n tokens, forward and backward, with N parameters that matrices multiply by, L
layers and h = heads * head size (Kaplan et al. 2020, arXiv:2001.08361, plus causal attention):

    6 * N * n + 6 * L * h * n^2

The causal half of attention is counted once; where a window bounds it, only the window. The head
counts for supervised tokens alone. What is recomputed to save memory is not counted: it is no
progress. Frozen matrices need no gradient of their own, and count 4 in the place of 6.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

NOT_ATTENDING = ("linear_attention", "conv", "mamba", "recurrent", "moe", "mlp")
"""Kinds of layers of hybrids whose operations grow with a document's length, and not its square."""


@dataclass(frozen=True)
class ModelShape:
    """What the operations of a model are counted from."""

    body_factor: int
    """Sum over the matrices of the body of their size times 6 (trained) or 4 (frozen)."""
    head_factor: int
    """The same of the head."""
    attention_size: int
    """h: heads * head size."""
    windows: tuple[int | None, ...]
    """For each layer that attends, the keys that a query may see; None: all before it."""


def flops_of_batch(shape: ModelShape, lengths: Sequence[int], supervised_tokens: int) -> int:
    """Count forward and backward over documents of these lengths (tokens)."""
    flops = shape.body_factor * sum(lengths) + shape.head_factor * supervised_tokens
    documents = np.asarray(lengths, dtype=np.int64)
    for window, layers in Counter(shape.windows).items():  # most layers are alike
        flops += 6 * shape.attention_size * layers * _twice_the_pairs(documents, window)
    return flops


def _twice_the_pairs(lengths: np.ndarray, window: int | None) -> int:
    """Count query-key pairs of documents, times two: n^2 when causal."""
    seen = lengths if window is None else np.minimum(lengths, window)
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
    body = head_factor = 0
    for parameter in model.parameters():
        factor = _num_weights(parameter) * (6 if parameter.requires_grad else 4)
        if parameter.dim() >= 2 and parameter in head_parameters:  # tied or not
            head_factor += factor
        elif parameter.dim() == 3:  # stacked experts [E, ., .]
            body += int(factor * _share_of_experts(config, parameter))
        elif parameter.dim() >= 2 and parameter not in embeddings:
            body += factor
    return ModelShape(body, head_factor, _attention_size(config), _windows(config))


def _attention_size(config: PretrainedConfig) -> int:
    """Return heads * head size; 0 where no layer attends (Mamba, RWKV, xLSTM)."""
    heads = getattr(config, "num_attention_heads", None)
    if not isinstance(heads, int):
        return 0
    return int(heads * (getattr(config, "head_dim", None) or config.hidden_size // heads))


def _num_weights(parameter: torch.Tensor) -> int:
    """Count the weights, also of a matrix in 4 bits, which is stored as bytes."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else math.prod(state.shape)


def _share_of_experts(config: PretrainedConfig, stacked: torch.Tensor) -> float:
    chosen = getattr(config, "num_experts_per_tok", None)
    return min(1.0, chosen / stacked.shape[0]) if chosen else 1.0


def _windows(config: PretrainedConfig) -> tuple[int | None, ...]:
    window = getattr(config, "sliding_window", None)
    if not getattr(config, "use_sliding_window", True):
        window = None
    kinds = getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None)
    if kinds is None:
        return (window,) * config.num_hidden_layers
    attending = (kind for kind in kinds if kind not in NOT_ATTENDING)
    return tuple(window if kind == "sliding_attention" else None for kind in attending)
