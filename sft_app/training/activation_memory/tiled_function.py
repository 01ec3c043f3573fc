"""A module that treats each position for itself, computed in tiles of the sequence.

Of a whole row, forward keeps the module's input alone, and has what is inside of the module for one
tile at a time; backward computes each tile again and goes back through it at once. So what an MLP
needs no longer grows with the row, but for its input, its output and their gradients (sequence
tiling: Arctic Long Sequence Training, arXiv 2506.13996, section 3.1).

Gradients are exact: those of the parameters are summed over the tiles in float32 and handed to
autograd once for each call, so that hooks of DDP and FSDP see a module like any other.

The input is kept before anything is computed. A checkpointed layer stops computing again when it
has found all that was kept (torch.utils.checkpoint), so that a module at its end, as an MLP is, is
not computed a third time.

Letters in shapes: B rows, T positions, D hidden size.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Forward = Callable[[Tensor], Tensor]


def apply_in_tiles(module: nn.Module, forward: Forward, hidden: Tensor, tile_tokens: int) -> Tensor:
    """Return forward(hidden) for hidden [B, T, D], computed for `tile_tokens` positions at a time.

    `forward` is a method of `module` and gives each position what it would give it alone; the
    result is [B, T, ...]. Rows that are no longer than a tile are computed as they are.
    """
    if hidden.shape[:-1].numel() <= tile_tokens:
        return forward(hidden)
    call = _Call(module, forward, tile_tokens)
    if not torch.is_grad_enabled():
        return call.compute(hidden)
    trained = call.trained()
    handle = _Keep.apply(hidden, call, *trained)
    if not handle.requires_grad:
        return call.compute(hidden)
    output = _Compute.apply(handle, hidden.detach(), call)
    assert isinstance(output, Tensor)
    return output


@dataclass
class _Call:
    """One call of a module: how it is computed, and what its two functions hand each other."""

    module: nn.Module
    forward: Forward
    tile_tokens: int
    grad_output: list[Tensor] = field(default_factory=list)
    """From the backward of `_Compute` to that of `_Keep`."""

    def trained(self) -> list[nn.Parameter]:
        """Return the parameters that get gradients; whole ones, while FSDP has gathered them."""
        return [p for p in self.module.parameters() if p.requires_grad]

    def draws(self) -> bool:
        """Tell whether random numbers may be drawn, which backward has to draw again.

        Not every family has a layer for its dropout: Starcoder-2 and Seed-OSS call a function.
        """
        return any(part.training for part in self.module.modules())

    def tiles(self, rows: Tensor) -> Iterator[slice]:
        for start in range(0, len(rows), self.tile_tokens):
            yield slice(start, start + self.tile_tokens)

    @torch.no_grad()
    def compute(self, hidden: Tensor) -> Tensor:
        rows = hidden.flatten(0, -2)
        output: Tensor | None = None
        for tile in self.tiles(rows):
            part = self.forward(rows[tile][None])[0]
            if output is None:
                output = part.new_empty(len(rows), *part.shape[1:])
            output[tile] = part
        assert output is not None
        return output.view(*hidden.shape[:-1], *output.shape[1:])


class _Keep(torch.autograd.Function):
    """Keeps the input; its backward does all the work."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, call: _Call, *trained: Tensor) -> Tensor:
        ctx.save_for_backward(hidden)
        ctx.call = call
        ctx.autocast = _autocast_as_now(hidden.device.type)
        ctx.random_state = _RandomState(hidden.device) if call.draws() else None
        return hidden.new_empty(())  # a handle, which ties the two functions together

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        call: _Call = ctx.call
        (hidden,) = ctx.saved_tensors
        rows, gradient = hidden.flatten(0, -2), call.grad_output.pop()
        gradient = gradient.flatten(0, hidden.dim() - 2)
        trained = call.trained()
        wants_hidden = ctx.needs_input_grad[0]
        grad_rows = torch.empty_like(rows) if wants_hidden else None
        sums: list[Tensor | None] = [None] * len(trained)
        again = nullcontext() if ctx.random_state is None else ctx.random_state.restored()
        with again:
            for tile in call.tiles(rows):
                with torch.enable_grad(), ctx.autocast():
                    part = rows[tile].detach().requires_grad_(wants_hidden)
                    output = call.forward(part[None])[0]
                wanted = [*trained, *((part,) if wants_hidden else ())]
                found = torch.autograd.grad(output, wanted, gradient[tile], allow_unused=True)
                if grad_rows is not None:
                    grad_rows[tile] = found[-1]
                for number, term in enumerate(found[: len(trained)]):
                    sums[number] = _added(sums[number], term)
        of_trained = (s if s is None else s.to(p.dtype) for s, p in zip(sums, trained, strict=True))
        grad_hidden = None if grad_rows is None else grad_rows.view_as(hidden)
        return (grad_hidden, None, *of_trained)


class _Compute(torch.autograd.Function):
    """Computes the output from an input that `_Keep` has kept."""

    @staticmethod
    def forward(ctx: Any, handle: Tensor, hidden: Tensor, call: _Call) -> Tensor:
        ctx.call = call
        return call.compute(hidden)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = grad_outputs
        ctx.call.grad_output.append(gradient)
        return gradient.new_zeros(()), None, None


def _added(total: Tensor | None, term: Tensor | None) -> Tensor | None:
    """Add in float32: in 16 bits the small terms would be lost."""
    if term is None:
        return total
    if total is None:
        return term.float()
    return total.add_(term)


def _autocast_as_now(device_type: str) -> Callable[[], AbstractContextManager[Any]]:
    """Return what makes the mixed precision of now; backward runs outside of it."""
    enabled = torch.is_autocast_enabled(device_type)
    dtype = torch.get_autocast_dtype(device_type)
    return lambda: torch.autocast(device_type, dtype=dtype, enabled=enabled)


class _RandomState:
    """The random numbers that will be drawn next, on the host and on `device`."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.host = torch.get_rng_state()
        self.of_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Draw them again; afterwards those follow that would have followed before."""
        with torch.random.fork_rng([] if self.of_device is None else [self.device]):
            torch.set_rng_state(self.host)
            if self.of_device is not None:
                torch.cuda.set_rng_state(self.of_device, self.device)
            yield
