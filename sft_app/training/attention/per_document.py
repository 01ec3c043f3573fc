"""Layers that see other documents of their row are called once for each document.

Attention is told where documents begin (packed_attention.py). State spaces, linear attention, short
convolutions and attention code of a family's own carry what they have read from one token to the
next, and know no documents. Called with one document at a time they are exact, forward and
backward, whatever kernels they use. Which layers these are is no list: the loaded model is asked.
Kernels that can be told the documents save the many calls (document_kernels.py).

Letters in shapes: B rows, T positions in a row, D hidden size.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sft_app.training.attention.document_bounds import Documents
from sft_app.training.attention.packed_forward import lengths_for_layers

NOT_ASKED = ("torch.", "peft.", "bitsandbytes.")
"""Packages whose modules are parts of layers: what they mix, the layer around them mixes."""

Forward = Callable[..., Any]
PackedCall = Callable[[Forward, tuple[Any, ...], dict[str, Any], tuple[int, ...]], list[Any]]
"""A layer's forward, its arguments and the documents' lengths -> outputs, to be joined."""


def find_leaking_layers(model: PreTrainedModel, probe: Callable[[], Any], first: int) -> list[str]:
    """Return the names of the innermost modules through which the first document is seen later.

    After each call of a module with hidden states [B, T, D] it is called again, with those of the
    first document changed.
    """
    found: list[str] = []
    asking = False

    def ask(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            nonlocal asking
            hidden, answer = hidden_states_of(args, kwargs), first_tensor(output)
            if asking or hidden is None or answer is None or answer.shape[:2] != hidden.shape[:2]:
                return
            changed = hidden.clone()
            changed[:, :first] += hidden.std() + 1
            asking = True
            try:
                other = with_replaced(args, hidden, changed), with_replaced(kwargs, hidden, changed)
                again = first_tensor(module.forward(*other[0], **other[1]))
            finally:
                asking = False
            assert again is not None
            moved = (again - answer)[:, first:].float().abs().max().item()
            scale = answer.float().abs().max().item()
            if not moved <= 10 * torch.finfo(answer.dtype).eps * scale:
                found.append(name)

        return hook

    handles = [
        module.register_forward_hook(ask(name), with_kwargs=True)
        for name, module in model.named_modules()
        if name and not type(module).__module__.startswith(NOT_ASKED)
    ]
    try:
        probe()
    finally:
        for handle in handles:
            handle.remove()
    names = set(found)
    return sorted(n for n in names if not any(other.startswith(f"{n}.") for other in names))


def where_packed(inner: Forward, call: PackedCall) -> Forward:
    """Return a forward that leaves packed rows to `call`, and all others to `inner`.

    The module is not in its closure: a deep copy must not call that one. `inner` and what is
    returned are functions of (module, ...).
    """

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        hidden = hidden_states_of(args, kwargs)
        if hidden is None:
            return inner(self, *args, **kwargs)
        batch_size, row_length = hidden.shape[:2]
        lengths = lengths_for_layers(batch_size, row_length)
        if lengths is None or len(lengths) == batch_size:
            return inner(self, *args, **kwargs)
        outputs = call(functools.partial(inner, self), args, kwargs, lengths)
        joined = _join([first_tensor(output) for output in outputs], batch_size, row_length)
        if isinstance(outputs[-1], tuple):
            return (joined, *outputs[-1][1:])
        return joined

    # What is compiled around it must not depend on the documents' lengths.
    disabled: Forward = torch.compiler.disable(forward)
    return disabled


def once_per_document(
    inner: Forward, args: tuple[Any, ...], kwargs: dict[str, Any], lengths: tuple[int, ...]
) -> list[Any]:
    """Call a layer with each document alone: hidden states [1, n, D], and what else is its own."""
    hidden = hidden_states_of(args, kwargs)
    assert hidden is not None
    batch_size, row_length = hidden.shape[:2]
    outputs = []
    for row, start, end in _spans(lengths, row_length):
        place = _Place(batch_size, row_length, row, start, end)
        own = map_tensors(args, place.of_tensor), map_tensors(kwargs, place.of_tensor)
        outputs.append(inner(*own[0], **own[1]))
    return outputs


def _spans(lengths: tuple[int, ...], row_length: int) -> list[tuple[int, int, int]]:
    """Return (row, first position in it, end) of each document."""
    spans, start = [], 0
    for length in lengths:
        row, offset = divmod(start, row_length)
        spans.append((row, offset, offset + length))
        start += length
    return spans


def _join(parts: list[Tensor | None], batch_size: int, row_length: int) -> Tensor:
    """Join [1, n, ...] of all documents to [B, T, ...]."""
    found = [part for part in parts if part is not None]
    whole = torch.cat(found, dim=1) if len(found) > 1 else found[0]
    return whole.squeeze(0).unflatten(0, (batch_size, row_length))


class _Place:
    """One document of a batch [batch_size, row_length]: what is its own of a layer's arguments."""

    def __init__(self, batch_size: int, row_length: int, row: int, start: int, end: int) -> None:
        self.batch_size, self.row_length = batch_size, row_length
        self.row, self.span = row, slice(start, end)

    def of_tensor(self, value: Tensor) -> Tensor:
        """Return the document's part of a tensor."""
        if value.dim() < 2:
            return value
        if value.shape[0] > 1 and value.shape[0] % self.batch_size == 0:
            value = value.chunk(self.batch_size)[self.row]
        if value.shape[1] == self.row_length:
            return value[:, self.span]
        if value.dim() == 4 and value.shape[2] == value.shape[3] == self.row_length:
            return value[:, :, self.span, self.span]  # a dense mask [B, 1, T, T]
        if value.shape[-1] == self.row_length:
            return value[..., self.span]  # biases of keys
        return value


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return an argument with each tensor in it changed.

    A list of documents, as our masks are, is none where these are told otherwise: causal.
    """
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Documents):
        return None
    if isinstance(value, dict):
        return {name: map_tensors(item, change) for name, item in value.items()}
    if isinstance(value, tuple):
        return tuple(map_tensors(item, change) for item in value)
    if isinstance(value, list) and any(isinstance(item, Tensor) for item in value):
        return [map_tensors(item, change) for item in value]
    return value


def hidden_states_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Return the first argument if it is hidden states [B, T, D]."""
    value = args[0] if args else next(iter(kwargs.values()), None)
    if isinstance(value, Tensor) and value.dim() == 3 and value.is_floating_point():
        return value if value.shape[1] > 1 else None
    return None


def first_tensor(output: Any) -> Tensor | None:
    """Return what a layer makes of hidden states, which may be the first of several results."""
    value = output[0] if isinstance(output, tuple | list) and output else output
    return value if isinstance(value, Tensor) and value.dim() == 3 else None


def with_replaced(values: Any, old: Tensor, new: Tensor) -> Any:
    """Return arguments with one tensor replaced."""
    if isinstance(values, dict):
        return {name: new if value is old else value for name, value in values.items()}
    return tuple(new if value is old else value for value in values)
