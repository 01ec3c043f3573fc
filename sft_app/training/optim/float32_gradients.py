"""Gradients of 16-bit parameters, summed over micro-batches and processes in float32.

Autograd keeps a gradient in its parameter's dtype. In bfloat16 a sum stands still once it is 256
times as large as what is added, and each addition rounds; so with `model.dtype=bfloat16` the later
of many micro-batches would count for less than the first, and ranks would be added up with two
digits. Here each micro-batch's gradient is taken off its parameter as soon as it is there and added
to a float32 sum, sharded as the parameter is; sums of whole parameters are then averaged over the
processes (in the place of DDP, whose buckets have the parameters' dtype; FSDP reduces in float32 by
itself). The norm, and clipping, see the float32 sums; they are rounded once, for the optimizer.
"""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from sft_app.common import ranks

BYTES_AT_A_TIME = 64 * 2**20
"""Of float32 sums that are averaged over the processes together."""


def summed_in_float32(
    parameters: Iterable[nn.Parameter], *, accumulated: int, whole_copies: int
) -> list[nn.Parameter]:
    """Return those whose gradients need a float32 sum of their own; none where autograd's will do.

    `accumulated`: micro-batches of an optimizer step; `whole_copies`: processes that have whole
    parameters, and average their gradients, which is done for all of them alike.
    """
    trained = [p for p in parameters if p.requires_grad]
    narrow = [p for p in trained if p.dtype in (torch.bfloat16, torch.float16)]
    if not narrow or (accumulated == 1 and whole_copies == 1):
        return []
    return narrow if whole_copies == 1 else trained


class Float32Gradients:
    """The sums of one optimizer step, for these parameters, and their way to the optimizer.

    They are parameters' `grad` between `hand_over` and `round`, and nowhere to be seen before.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        """Take each gradient as backward has made it, when other hooks have had it."""
        self.parameters = list(parameters)
        self._sums: dict[nn.Parameter, Tensor] = {}
        whole = [p for p in self.parameters if not isinstance(p, DTensor)]
        self._averaged = whole if ranks.world_size() > 1 else []
        """Those that every process has whole: beside tensor-parallel shards, norms and the like."""
        self._hooks = [p.register_post_accumulate_grad_hook(self._take) for p in self.parameters]

    def _take(self, parameter: nn.Parameter) -> None:
        gradient, total = parameter.grad, self._sums.get(parameter)
        assert gradient is not None
        if total is None:
            self._sums[parameter] = gradient.float()
        else:
            total += gradient
        parameter.grad = None

    def hand_over(self) -> None:
        """Make the sums, averaged over the processes, the parameters' gradients; a collective."""
        if self._averaged:
            self._average()
        for parameter, total in self._sums.items():
            parameter.grad = None
            parameter.grad_dtype = torch.float32
            parameter.grad = total
        self._sums.clear()

    def round(self) -> None:
        """Give gradients the dtype of their parameters, which optimizers expect."""
        for parameter in self.parameters:
            gradient = parameter.grad
            parameter.grad = None  # one after the other: not all of them twice
            parameter.grad_dtype = parameter.dtype
            if gradient is not None:
                parameter.grad = gradient.to(parameter.dtype)

    def close(self) -> None:
        """Leave gradients to autograd again."""
        for hook in self._hooks:
            hook.remove()
        self._sums.clear()

    def _average(self) -> None:
        """Average over all processes what any of them has; others count as zeros there."""
        device = self._averaged[0].device
        has = torch.tensor([p in self._sums for p in self._averaged], device=device).int()
        dist.all_reduce(has, op=dist.ReduceOp.MAX)
        sums = [
            self._sums.setdefault(p, torch.zeros_like(p, dtype=torch.float32))
            for p, needed in zip(self._averaged, has.tolist(), strict=True)
            if needed
        ]
        for some in _in_parts(sums):
            flat = torch.cat([total.flatten() for total in some])
            dist.all_reduce(flat)
            flat /= ranks.world_size()
            for total, mean in zip(some, flat.split([t.numel() for t in some]), strict=True):
                total.copy_(mean.view_as(total))


def _in_parts(sums: list[Tensor]) -> Iterable[list[Tensor]]:
    """Yield them in order, as many at a time as are reduced together, one at least."""
    part: list[Tensor] = []
    for total in sums:
        if part and sum(t.nbytes for t in part) + total.nbytes > BYTES_AT_A_TIME:
            yield part
            part = []
        part.append(total)
    if part:
        yield part
