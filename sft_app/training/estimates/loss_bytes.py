"""What the loss holds: a chunk of logits, or all of them, and the supervised hidden states."""

import torch
from transformers import PreTrainedModel

from sft_app.training.loss.chunked_cross_entropy import rows_of_chunk


def chunk_of_logits(
    model: PreTrainedModel, tokens: int, compute_dtype: torch.dtype, chunk_bytes: int
) -> int:
    """Count a chunk in float32, and in 16 bits as the matrix product gives and takes it."""
    vocab_size: int = model.config.get_text_config(decoder=True).vocab_size
    rows = min(tokens, rows_of_chunk(vocab_size, chunk_bytes))
    narrow = compute_dtype.itemsize if compute_dtype != torch.float32 else 0
    return rows * vocab_size * (4 + 2 * narrow)


def loss_bytes(
    model: PreTrainedModel,
    tokens: int,
    dtype: torch.dtype,
    compute_dtype: torch.dtype,
    *,
    in_chunks: bool,
) -> int:
    """Count what the loss holds beside a chunk of logits; all logits without chunks."""
    text = model.config.get_text_config(decoder=True)
    if not in_chunks:
        # the logits, their float32 copy in the loss, and the gradient of each
        return int(tokens * text.vocab_size * (2 * compute_dtype.itemsize + 8))
    # The supervised hidden states, as they are and as they are multiplied, and their gradient.
    narrow = compute_dtype.itemsize if compute_dtype != torch.float32 else 0
    hidden = tokens * text.hidden_size * (dtype.itemsize + narrow + compute_dtype.itemsize)
    head = model.get_output_embeddings()
    trained = head is not None and head.weight.requires_grad
    return int(hidden + (4 * text.vocab_size * text.hidden_size if trained else 0))
