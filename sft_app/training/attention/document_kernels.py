"""Layers whose kernels know documents are called once for a batch of them.

The kernels of flash-linear-attention, causal-conv1d and mamba-ssm can be told where documents
begin, and transformers' layers hand on what they are told. Then one call does what per_document.py
needs a call a document for. Nothing is taken on trust: a layer may tell one of its kernels and not
the other (a convolution, and not the scan behind it), or have a kernel that ignores it. So both
ways are compared on the loaded model, forward and backward, in training and evaluation.

Letters in shapes: B rows, T positions in a row, N = B*T positions of the flattened batch, D hidden
size.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sft_app.training.attention.document_bounds import documents_of_lengths
from sft_app.training.attention.packed_forward import current_forward, lengths_for_layers
from sft_app.training.attention.per_document import (
    Forward,
    PackedCall,
    first_tensor,
    hidden_states_of,
    map_tensors,
    once_per_document,
    where_packed,
    with_replaced,
)
from sft_app.training.precision import compute_dtype

SPELLINGS = (("seq_idx", "cu_seq_lens_q"), ("seq_idx", "cu_seqlens"))
"""Keywords by which layers are told documents: of transformers, and of kernels called with all."""
ROWS = ((64, 1, 63, 41), (76, 87, 6))
"""Tokens of the probe's documents in each row.

They begin and end inside, at and beyond the chunks of 64, 128 and 256 tokens that kernels work in.
"""
TOLERATED_LEAK = {torch.float32: 1e-3}
TOLERATED_LEAK_IN_16_BITS = 1e-2
"""Of a document's gradient. Kernels sum over chunks what cancels across a document's end."""
TOLERATED_DIFFERENCE = {torch.float32: 5e-3}
TOLERATED_DIFFERENCE_IN_16_BITS = 0.1
"""Of the norm of an output or a gradient. Triton's products of float32 are rounded to TF32."""


@dataclass(frozen=True)
class LayerCalls:
    """How the leaking layers of one class are called with packed rows."""

    layer: str
    """Name of the class."""
    keywords: tuple[str, ...]
    """By which one call is told all documents; none: one call per document."""
    reason: str = ""
    """Why it is not one call."""


@dataclass
class _Check:
    """What is known about one class of layers while the probe runs."""

    spellings: list[tuple[str, ...]]
    """Those that may still do."""
    unseen: set[str]
    """Names of the layers that the probe has not reached yet."""
    reason: str = "its code takes no documents"

    def result(self, layer: str) -> LayerCalls:
        """Return how layers of the class are called."""
        if self.spellings and not self.unseen:
            return LayerCalls(layer, self.spellings[0])
        return LayerCalls(layer, (), self.reason)


def call_leaking_layers(
    model: PreTrainedModel, leaking: list[str], probe: Callable[[], Any]
) -> list[LayerCalls]:
    """Patch the leaking layers, by name, to be called with packed rows as is exact; say how.

    In one call where that has been compared with one call per document on all layers of the class,
    else once per document. `probe` puts rows [B, T] of the documents in ROWS through the model.
    """
    layers = {name: model.get_submodule(name) for name in leaking}
    checks = {type(m): _Check(_spellings_of(current_forward(m)), set()) for m in layers.values()}
    for name, layer in layers.items():
        checks[type(layer)].unseen.add(name)
    if any(check.spellings for check in checks.values()):
        dtype = compute_dtype(model)
        handles = [
            layer.register_forward_hook(
                _compare(name, checks[type(layer)], dtype), with_kwargs=True
            )
            for name, layer in layers.items()
        ]
        try:
            probe()
        finally:
            for handle in handles:
                handle.remove()
    found = {kind: check.result(kind.__name__) for kind, check in checks.items()}
    for layer in layers.values():
        call = _all_at_once(found[type(layer)].keywords)
        layer.forward = MethodType(where_packed(current_forward(layer), call), layer)
    return sorted(found.values(), key=lambda calls: calls.layer)


def kernel_probe(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return packed rows [2, T] of the documents in ROWS."""
    vocab_size = model.config.get_text_config(decoder=True).vocab_size
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(vocab_size, (len(ROWS), sum(ROWS[0])), generator=generator)
    positions = [torch.cat([torch.arange(length) for length in row]) for row in ROWS]
    return {"input_ids": tokens.to(device), "position_ids": torch.stack(positions).to(device)}


def _spellings_of(forward: Forward) -> list[tuple[str, ...]]:
    """Return the keywords that a layer takes, of each spelling."""
    parameters = inspect.signature(forward).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return list(SPELLINGS)
    taken = [tuple(name for name in spelling if name in parameters) for spelling in SPELLINGS]
    return [spelling for spelling in dict.fromkeys(taken) if spelling]


def _all_at_once(keywords: tuple[str, ...]) -> PackedCall:
    """Return the call of a layer with all documents, [1, N, D]; without keywords, one for each."""
    if not keywords:
        return once_per_document

    def call(
        inner: Forward, args: tuple[Any, ...], kwargs: dict[str, Any], lengths: tuple[int, ...]
    ) -> list[Any]:
        hidden = hidden_states_of(args, kwargs)
        assert hidden is not None
        rows = hidden.shape[:2]

        def flat(value: Tensor) -> Tensor:
            return value.flatten(0, 1).unsqueeze(0) if value.shape[:2] == rows else value

        documents = _told(lengths, hidden.device)
        told = map_tensors(kwargs, flat) | {name: documents[name] for name in keywords}
        return [inner(*map_tensors(args, flat), **told)]

    return call


@functools.lru_cache(maxsize=4)
def _told(lengths: tuple[int, ...], device: torch.device) -> dict[str, Tensor]:
    """Return documents as kernels want them; the same tensors for all layers of a forward.

    flash-linear-attention counts its chunks once for each `cu_seqlens`, and waits for the device to
    do so.
    """
    bounds = documents_of_lengths(list(lengths), device).cu_seqlens
    positions = torch.arange(sum(lengths), device=device, dtype=torch.int32)
    which = torch.searchsorted(bounds[1:], positions, right=True, out_int32=True)
    return {"seq_idx": which.unsqueeze(0), "cu_seq_lens_q": bounds, "cu_seqlens": bounds}


def _compare(name: str, check: _Check, dtype: torch.dtype) -> Callable[..., None]:
    """Return a forward hook that strikes out the spellings by which its layer is not exact."""

    def hook(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        check.unseen.discard(name)
        for spelling in list(check.spellings):
            reason = _what_is_wrong(module, spelling, args, kwargs, dtype)
            if reason is None:
                check.spellings = [spelling]
                return
            check.spellings.remove(spelling)
            # Of the first one: the others are guesses at what the layer may take beside.
            check.reason = reason if spelling == SPELLINGS[0] else check.reason

    return hook


def _what_is_wrong(
    module: nn.Module,
    keywords: tuple[str, ...],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    dtype: torch.dtype,
) -> str | None:
    """Return why one call of a layer does not do; None: it gives what a call a document gives."""
    inner = current_forward(module)
    tolerated_leak = TOLERATED_LEAK.get(dtype, TOLERATED_LEAK_IN_16_BITS)
    tolerated = TOLERATED_DIFFERENCE.get(dtype, TOLERATED_DIFFERENCE_IN_16_BITS)
    try:
        for training in (True, False):  # fused kernels are for training only
            with _mode(module, training):
                at_once = where_packed(inner, _all_at_once(keywords))
                ours = _answer(module, at_once, args, kwargs)
                if not ours.leak <= tolerated_leak:
                    return f"told its documents, {ours.leak:.0e} of a gradient comes from another"
                alone = _answer(module, where_packed(inner, once_per_document), args, kwargs)
            difference = ours.difference(alone)
            if not difference <= tolerated:
                return f"told its documents, it differs from that by {difference:.0e}"
    except Exception as error:  # Triton's have no common base, and the other way is at hand
        message = str(error).strip() or type(error).__name__
        return f"told its documents, {message.splitlines()[0].split('. ')[0].rstrip('.')}"
    return None


@contextmanager
def _mode(module: nn.Module, training: bool) -> Iterator[None]:
    """With the module alone in training, or not; dropout below it stays as it is."""
    before = module.training
    module.training = training
    try:
        yield
    finally:
        module.training = before


@dataclass(frozen=True)
class _Answer:
    """A layer's output, and what comes back through it."""

    tensors: list[Tensor]
    """The output, and the gradients of hidden states and trained weights."""
    leak: float
    """Largest norm of a gradient of other documents, relative to that of its own."""

    def difference(self, expected: "_Answer") -> float:
        """Return the largest relative difference; infinity for NaN."""
        worst = 0.0
        for ours, theirs in zip(self.tensors, expected.tensors, strict=True):
            norm = theirs.float().norm().item()
            difference = (ours.float() - theirs.float()).norm().item() / (norm or 1)
            worst = max(worst, difference if difference == difference else float("inf"))
        return worst


@torch.enable_grad()
def _answer(
    module: nn.Module, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> _Answer:
    """Call a layer with packed rows, and go backward from all, and from every second document.

    Every second, and then those between: a document's neighbours are in the other set, so that
    whatever reaches one from the next is seen.
    """
    given = hidden_states_of(args, kwargs)
    assert given is not None
    lengths = lengths_for_layers(*given.shape[:2])
    assert lengths is not None
    hidden = given.detach().clone().requires_grad_()
    output = first_tensor(
        forward(module, *with_replaced(args, given, hidden), **with_replaced(kwargs, given, hidden))
    )
    assert output is not None
    generator = torch.Generator().manual_seed(0)
    upstream = torch.randn(output.shape, generator=generator).to(output)
    document = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    second = (document % 2 == 1).view(given.shape[:2]).to(given.device)
    leak = 0.0
    for own in (second, ~second):
        (gradient,) = torch.autograd.grad(
            output, hidden, upstream * own[..., None], retain_graph=True
        )
        ours, others = gradient[own].float().norm(), gradient[~own].float().norm()
        share = (others / ours).item()
        leak = max(leak, share if share == share else float("inf"))
    weights = [p for p in module.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(
        output, [hidden, *weights], upstream, allow_unused=True, materialize_grads=True
    )
    return _Answer([output.detach(), *gradients], leak)
