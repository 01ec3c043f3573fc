"""The embedding row of the pad token, as the checkpoint has it.

A family may set that row to zero when it initialises a new model. In transformers 5.23 Youtu does
so past the marks of what has been read, so that the row of every loaded model is lost, of which
nothing is said; where the pad token also ends a text, the row is one that the model has learned.
"""

import logging

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from sft_app.common.errors import ConfigError
from sft_app.loader.checkpoint.locate import Checkpoint
from sft_app.loader.checkpoint.stored_tensor import Headers, NoHeaders
from sft_app.loader.checkpoint.tensor_headers import read_headers, weights_folder

log = logging.getLogger(__name__)


@torch.no_grad()
def restore_pad_row(
    model: PreTrainedModel, checkpoint: Checkpoint, *, allow_pickle: bool = False
) -> None:
    """Write the stored row where loading has set it to zero, and say so.

    Raises ConfigError where the embedding is cut over processes.
    """
    embedding = model.get_input_embeddings()
    row = getattr(embedding, "padding_idx", None)
    if row is None or not isinstance(embedding, nn.Embedding):
        return
    weight: Tensor = embedding.weight
    is_cut = isinstance(weight, DTensor)
    if isinstance(weight, DTensor):
        weight = weight.full_tensor()
    if weight.is_meta or weight[row].any():
        return
    headers = read_headers(checkpoint, allow_pickle=allow_pickle)
    stored = _stored_row(model, checkpoint, headers, row)
    if stored is None or not stored.to(weight.dtype).any():
        return
    if is_cut:
        raise ConfigError(
            f"trainer.tensor_parallel_size: transformers loads {type(model).__name__} without the "
            f"embedding of its pad token (id {row}), and it cannot be put back into parts of "
            "matrices; use trainer.parallelism=fsdp."
        )
    weight[row] = stored.to(weight)
    log.info("embedding       the row of token %d is the checkpoint's; loading had cleared it", row)


def _stored_row(
    model: PreTrainedModel, checkpoint: Checkpoint, headers: Headers | NoHeaders, row: int
) -> Tensor | None:
    """Read [hidden size] from the files; None where none of their tensors is the embedding."""
    folder = weights_folder(checkpoint)
    if folder is None or isinstance(headers, NoHeaders):
        return None
    weight = model.get_input_embeddings().weight
    own = [n for n, p in model.named_parameters(remove_duplicate=False) if p is weight]
    for stored, header in headers.items():
        # With the prefix of the model around it, or without.
        named = any(
            n == stored or n.endswith(f".{stored}") or stored.endswith(f".{n}") for n in own
        )
        if named and header.shape == tuple(weight.shape) and header.file.endswith(".safetensors"):
            with safe_open(folder / header.file, framework="pt") as file:
                found: Tensor = file.get_slice(stored)[row : row + 1][0]
            return found
    return None
