"""Whether every step reaches every parameter, so that DDP need not search for those it does not.

The Trainer lets DDP walk the whole graph after each forward to find parameters without a gradient.
Most models have none, which is asked of the model itself: a tiny batch goes forward and backward.
"""

import torch
from torch import nn
from transformers import PreTrainedModel

from sft_app.data.labels import IGNORE_INDEX


def leaves_parameters_unused(model: PreTrainedModel, called: nn.Module) -> bool:
    """Tell whether a step may leave trained parameters without a gradient.

    `called` is what training calls, where that wraps the model. Experts in a list, each of which
    sees the tokens that it is sent, may always be left out. Gradients are none afterwards.
    """
    if any(
        isinstance(part, nn.ModuleList) and name.rpartition(".")[2] == "experts"
        for name, part in model.named_modules()
    ):
        return True
    tokens = torch.arange(12, device=model.device)[None] % 10
    labels = tokens.clone()
    labels[:, :4] = IGNORE_INDEX
    was_training = called.training
    called.eval()  # nothing is drawn at random
    try:
        called(input_ids=tokens, labels=labels).loss.backward()
        return any(p.requires_grad and p.grad is None for p in called.parameters())
    finally:
        called.zero_grad(set_to_none=True)
        called.train(was_training)
