"""Layers that see other documents of their row are called once for each document.

Attention is told where documents begin (packed_attention.py). State spaces, linear attention, short
convolutions and attention code of a family's own carry what they have read from one token to the
next, and know no documents. Called with one document at a time they are exact, forward and
backward, whatever kernels they use. Which layers these are is no list: the loaded model is asked.

Letters in shapes: B rows, T positions in a row, D hidden size.
"""

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sft_app.training.attention.document_bounds import Documents
from sft_app.training.attention.packed_forward import current_forward, lengths_for_layers

NOT_ASKED = ("torch.", "peft.", "bitsandbytes.")
"""Packages whose modules are parts of layers: what they mix, the layer around them mixes."""


def call_leaking_layers_per_document(
    model: PreTrainedModel, probe: Callable[[], Any], first: int
) -> list[str]:
    """Find the layers that let documents see each other, patch them, and return their classes.

    `probe` puts packed rows [B, T] through the model, the first document of each row being `first`
    tokens long.
    """
    leaking = find_leaking_layers(model, probe, first)
    for name in leaking:
        module = model.get_submodule(name)
        module.forward = MethodType(_per_document(current_forward(module)), module)
    return sorted({type(model.get_submodule(name)).__name__ for name in leaking})


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
            hidden, answer = _hidden_states(args, kwargs), _first_tensor(output)
            if asking or hidden is None or answer is None or answer.shape[:2] != hidden.shape[:2]:
                return
            changed = hidden.clone()
            changed[:, :first] += hidden.std() + 1
            asking = True
            try:
                again = _first_tensor(module.forward(*_with(args, hidden, changed),
                                                     **_with(kwargs, hidden, changed)))  # fmt: skip
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


def _per_document(inner: Callable[..., Any]) -> Callable[..., Any]:
    """Return a forward without the module in its closure: a deep copy must not call that one."""

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        hidden = _hidden_states(args, kwargs)
        if hidden is None:
            return inner(self, *args, **kwargs)
        batch_size, row_length = hidden.shape[:2]
        lengths = lengths_for_layers(batch_size, row_length)
        if lengths is None or len(lengths) == batch_size:
            return inner(self, *args, **kwargs)
        outputs = []
        for row, start, end in _spans(lengths, row_length):
            place = _Place(batch_size, row_length, row, start, end)
            outputs.append(inner(self, *place.of(args), **place.of(kwargs)))
        joined = _join([_first_tensor(output) for output in outputs], batch_size, row_length)
        if isinstance(outputs[-1], tuple):
            return (joined, *outputs[-1][1:])
        return joined

    # What is compiled around it must not depend on the documents' lengths.
    disabled: Callable[..., Any] = torch.compiler.disable(forward)
    return disabled


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
    whole = torch.cat([part for part in parts if part is not None], dim=1).squeeze(0)
    return whole.unflatten(0, (batch_size, row_length))


class _Place:
    """One document of a batch [batch_size, row_length]: what is its own of a layer's arguments."""

    def __init__(self, batch_size: int, row_length: int, row: int, start: int, end: int) -> None:
        self.batch_size, self.row_length = batch_size, row_length
        self.row, self.span = row, slice(start, end)

    def of(self, value: Any) -> Any:
        """Return the document's part of a tensor, or of the tensors in a container.

        A list of documents, as our masks are, is none for a single one: causal.
        """
        if isinstance(value, Tensor):
            return self._of_tensor(value)
        if isinstance(value, Documents):
            return None
        if isinstance(value, dict):
            return {name: self.of(item) for name, item in value.items()}
        if isinstance(value, tuple | list) and any(isinstance(item, Tensor) for item in value):
            return type(value)(self.of(item) for item in value)
        if isinstance(value, tuple):
            return tuple(self.of(item) for item in value)
        return value

    def _of_tensor(self, value: Tensor) -> Tensor:
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


def _hidden_states(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Return the first argument if it is hidden states [B, T, D]."""
    value = args[0] if args else next(iter(kwargs.values()), None)
    if isinstance(value, Tensor) and value.dim() == 3 and value.is_floating_point():
        return value if value.shape[1] > 1 else None
    return None


def _first_tensor(output: Any) -> Tensor | None:
    value = output[0] if isinstance(output, tuple | list) and output else output
    return value if isinstance(value, Tensor) and value.dim() == 3 else None


def _with(values: Any, old: Tensor, new: Tensor) -> Any:
    """Return arguments with one tensor replaced."""
    if isinstance(values, dict):
        return {name: new if value is old else value for name, value in values.items()}
    return tuple(new if value is old else value for value in values)
