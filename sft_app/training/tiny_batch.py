"""A batch to ask a loaded model with, before it is trained."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sft_app.data.labels import IGNORE_INDEX


def tiny_batch(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return two rows of 12 tokens, the same on every rank; the first four have no label."""
    vocab_size = model.config.get_text_config(decoder=True).vocab_size
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(vocab_size, (2, 12), generator=generator).to(model.device)
    labels = tokens.clone()
    labels[:, :4] = IGNORE_INDEX
    return {"input_ids": tokens, "labels": labels}
