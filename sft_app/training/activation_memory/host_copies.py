"""What autograd keeps, in the host's memory, with copies that run beside the computing.

Each tensor is copied out on a stream of its own while the next layer computes. In backward they are
needed in the opposite order: whoever takes one has the one before it fetched meanwhile. So the
device holds two of them at a time, and the compute stream waits only where the link to the host is
slower than a layer. transformers' own offload copies on the compute stream.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

SMALLEST = 2**20
"""Bytes: smaller tensors stay on the device."""


@dataclass(eq=False)
class Copied:
    """A tensor that autograd keeps, and where it is."""

    host: Tensor
    device: torch.device
    before: "weakref.ref[Copied] | None"
    """The one that was kept before it, which is needed after it; autograd owns them."""
    arrived: torch.cuda.Event | None = None
    """On a GPU: the copy to the host, then the one back, has ended."""
    fetched: Tensor | None = None
    taken: bool = False
    """Backward has had it."""


class HostCopies:
    """Keeps tensors of `smallest` bytes and more on the host, between forward and backward."""

    def __init__(self, device: torch.device, smallest: int = SMALLEST) -> None:
        """Make the streams of the copies; a CPU, whose copies are plain ones, has none."""
        self.device, self.smallest = device, smallest
        self.latest: weakref.ref[Copied] | None = None
        on_gpu = device.type == "cuda"
        self.outward = torch.cuda.Stream(device) if on_gpu else None
        self.inward = torch.cuda.Stream(device) if on_gpu else None

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Keep on the host what autograd saves in here."""
        with saved_tensors_hooks(self._pack, self._unpack):
            yield

    def _pack(self, tensor: Tensor) -> Tensor | Copied:
        owned = tensor.device == self.device and not isinstance(tensor, torch.nn.Parameter)
        if not owned or tensor.nbytes < self.smallest:
            return tensor
        copied = self._copy_out(tensor)
        self.latest = weakref.ref(copied)
        return copied

    def _copy_out(self, tensor: Tensor) -> Copied:
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=self.outward is not None)
        copied = Copied(host, tensor.device, self.latest)
        if self.outward is None:
            host.copy_(tensor)
            return copied
        self.outward.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.outward):
            host.copy_(tensor, non_blocking=True)
            copied.arrived = self.outward.record_event()
        tensor.record_stream(self.outward)  # its memory is not used again before
        return copied

    def _unpack(self, kept: Tensor | Copied) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        if kept.fetched is None:
            self._fetch(kept)
        tensor, kept.fetched = kept.fetched, None
        assert tensor is not None
        if self.inward is not None:
            assert kept.arrived is not None
            compute = torch.cuda.current_stream(self.device)
            compute.wait_event(kept.arrived)
            tensor.record_stream(compute)
        kept.taken = True
        before = kept.before() if kept.before is not None else None
        if before is not None and before.fetched is None and not before.taken:
            self._fetch(before)
        return tensor

    def _fetch(self, kept: Copied) -> None:
        """Begin to copy it back."""
        if self.inward is None:
            kept.fetched = kept.host.clone()
            return
        assert kept.arrived is not None
        self.inward.wait_event(kept.arrived)
        # Once the layer that is now computed begins: earlier, it would only take memory.
        self.inward.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.inward):
            kept.fetched = kept.host.to(kept.device, non_blocking=True)
            kept.arrived = self.inward.record_event()
