"""What a forward knows about its packed documents, and who asks for it.

Documents are told by `position_ids` that restart at 0. transformers hands those to its masks in
most families and not in all, and no recurrent or convolutional layer looks at them. So the model's
forward is patched to note the lengths of the documents before anything else: masks ask for them
(packed_attention.py), and so do layers that have to be called once per document (per_document.py).

Letters in shapes: B rows, T positions in a row.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import MethodType
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from sft_app.compat.model_internals import attention_of, packing_is_told_to_masks
from sft_app.training.attention.document_bounds import lengths_from_positions
from sft_app.training.attention.known_batch import known_lengths

SFT_PACKED = "sft_packed"
"""The attention implementation that asks here for the documents (packed_attention.py)."""


class _LatestForward:
    """The packed documents of the forward that runs, or ran last.

    They stay when it has ended: with activation checkpointing a layer runs again in the backward,
    which comes before the next forward, and in another thread where there is a GPU (so that a
    ContextVar would not do).
    """

    lengths: tuple[int, ...] | None = None
    """Tokens of each document, in the order of the flattened batch; None: rows are not packed."""
    running: bool = False


_latest = _LatestForward()


def lengths_for_masks() -> tuple[int, ...] | None:
    """Return the documents' lengths inside of a forward of packed rows; None elsewhere."""
    return _latest.lengths if _latest.running else None


def lengths_for_layers(batch_size: int, row_length: int) -> tuple[int, ...] | None:
    """Return the documents' lengths, if rows of this shape are what the latest forward is of."""
    lengths = _latest.lengths
    if lengths is None or sum(lengths) != batch_size * row_length:
        return None
    return lengths


@contextmanager
def packed_documents(
    position_ids: torch.Tensor | None,
    attention_mask: torch.Tensor | None = None,
    past_key_values: Any = None,
    config: PretrainedConfig | None = None,
) -> Iterator[None]:
    """Note the documents of a forward; none where there is a mask, or a cache, beside positions.

    `config` is the model's: where its masks are made by us, who know the documents, transformers
    does not look for them on the device.
    """
    before = (_latest.lengths, _latest.running)
    lengths = None
    if position_ids is not None and position_ids.dim() == 2:
        packed = attention_mask is None and past_key_values is None and position_ids.shape[1] > 1
        if packed:
            lengths = known_lengths(position_ids) or tuple(lengths_from_positions(position_ids))
    _latest.lengths, _latest.running = lengths, True
    try:
        with _told_to_masks(config if lengths is not None else None):
            yield
    finally:
        _latest.running = before[1]
        if before[1]:  # a model inside of a model
            _latest.lengths = before[0]


def _told_to_masks(config: PretrainedConfig | None) -> AbstractContextManager[None]:
    """Spare transformers its look at the positions, where every layer's mask is made by us.

    Chunked layers are left alone: their chunks are counted from each document's first token, which
    transformers' rule knows and ours does not.
    """
    if config is None:
        return nullcontext()
    text = config.get_text_config(decoder=True)
    if {attention_of(config), attention_of(text)} != {SFT_PACKED}:
        return nullcontext()
    kinds = set(getattr(text, "layer_types", None) or ())
    chunked = getattr(text, "attention_chunk_size", None) is not None
    known = not chunked and kinds <= {"full_attention", "sliding_attention"}
    return packing_is_told_to_masks() if known else nullcontext()


def install_packed_forward(model: PreTrainedModel) -> None:
    """Patch `model.forward` to note the packed documents; calling it again changes nothing.

    The patch is on the model itself, beneath whatever wraps it: PEFT calls `forward` directly, so
    that hooks would not run.
    """
    if not hasattr(current_forward(model), "notes_documents"):
        model.forward = MethodType(_noting(current_forward(model)), model)


def current_forward(model: nn.Module) -> Callable[..., Any]:
    """Return the forward in use as a plain function of (model, ...), patched or its class's."""
    forward = vars(model).get("forward", type(model).forward)
    function: Callable[..., Any] = getattr(forward, "__func__", forward)
    return function


def _noting(inner: Callable[..., Any]) -> Callable[..., Any]:
    """Return a forward without the model in its closure: a deep copy must not call the original."""

    @functools.wraps(inner)  # the Trainer reads the signature
    def forward(self: PreTrainedModel, *args: Any, **kwargs: Any) -> Any:
        with packed_documents(
            kwargs.get("position_ids"),
            kwargs.get("attention_mask"),
            kwargs.get("past_key_values"),
            self.config,
        ):
            return inner(self, *args, **kwargs)

    forward.notes_documents = True  # type: ignore[attr-defined]
    return forward
