"""Which ranks share the work of an evaluation out, and which do each piece of it together."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from sft_app.common import ranks


@dataclass(frozen=True, kw_only=True)
class RowShard:
    """This rank's part of rows."""

    inputs: dict[str, Tensor]
    """What the model is called with: input_ids [B, t] and whatever belongs to them."""
    start: int
    """Position of its first token in the whole rows."""


ShardRows = Callable[[Tensor], AbstractContextManager[RowShard]]
"""From whole rows [B, T] to this rank's part; forwards inside attend over the whole rows."""


@dataclass(frozen=True, kw_only=True)
class WorkSplit:
    """Groups of ranks: each group takes pieces of work of its own."""

    index: int = 0
    """This rank's group."""
    count: int = 1
    """Groups."""
    shard_rows: ShardRows | None = None
    """The ranks of a group hold parts of each row (context parallelism); None: whole rows."""

    def turns(self, total: int) -> Iterator[tuple[int, bool]]:
        """Yield (number, whether it counts) of the pieces of work of this group.

        Every group takes as many turns, as sharded models need: surplus ones do not count.
        """
        for turn in range(math.ceil(total / self.count)):
            number = turn * self.count + self.index
            yield number % total, number < total

    def sum(self, values: Tensor, device: torch.device | str) -> Tensor:
        """Add up what the ranks have measured, zero where another one did; on the CPU."""
        if self.count == 1 and self.shard_rows is None:  # each rank has measured everything
            return values
        shared = values.to(device)
        dist.all_reduce(shared)
        return shared.cpu()


def split_over_all_ranks() -> WorkSplit:
    """Return the split in which every rank works alone, on whole rows."""
    return WorkSplit(index=ranks.rank(), count=ranks.world_size())
