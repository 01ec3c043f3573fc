"""Data-parallel rank and size, where several processes work on the same batches."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import DataLoader

from sft_app.data.batches.datasets import StandIn


@dataclass(frozen=True)
class DataParallelRank:
    """Which batches this process reads."""

    size: int
    """Groups of processes that read batches of their own."""
    rank: int
    """The group of this process, from 0."""
    is_first_of_its_batch: bool
    """Whether this process counts what its group reads."""
    model_parallel_size: int
    """Processes that work on one batch together: a context- or tensor-parallel group."""

    def __str__(self) -> str:
        """Describe the groups, as in "2 groups of 4 processes"."""
        if self.model_parallel_size == 1:
            return f"{self.size} processes"
        groups = "1 group" if self.size == 1 else f"{self.size} groups"
        return f"{groups} of {self.model_parallel_size} processes"

    def apply(self, loader: DataLoader, *, stand_ins: bool = True) -> None:
        """Have a loader that accelerate prepared yield the batches of this group.

        accelerate gives each process every n-th batch; a single process has no such sampler. Where
        the last batches of an epoch are too few for all groups, the others read a `StandIn` each.
        Without `stand_ins`, for a loss that cannot be told how much a batch has of the step, they
        read and learn the epoch's first items once more, as accelerate has it.
        """
        sampler = loader.batch_sampler
        if not isinstance(sampler, BatchSamplerShard):
            assert self.model_parallel_size == 1, "accelerate shards batches over processes"
            return
        sampler.num_processes = self.size
        sampler.process_index = self.rank
        if self.size == 1:  # nobody to keep step with: the last batch may be a short one
            sampler.even_batches = False
        elif stand_ins and not sampler.drop_last and not sampler.split_batches:
            sampler.batch_sampler = WithStandIns(sampler.batch_sampler, self.size)
            sampler.even_batches = False
        # accelerate looks for the sampler here when it skips what was read before a resume. Without
        # it, the order of the first epoch would be that of every resumed one.
        sampler.sampler = sampler.batch_sampler.sampler


class WithStandIns:
    """The batches of an epoch, and some after them, so that each of `size` groups has as many.

    All groups have to take part in each step. What is added teaches nothing: an epoch is the same
    for any number of processes, each item once.
    """

    def __init__(self, batches: Any, size: int) -> None:
        """Add to a BatchSampler's batches."""
        self.batches, self.size = batches, size
        self.sampler, self.batch_size = batches.sampler, batches.batch_size
        self.drop_last = False

    def __len__(self) -> int:
        """Count the batches."""
        return len(self.batches) + -len(self.batches) % self.size

    def __iter__(self) -> Iterator[list[int]]:
        """Yield each batch."""
        batch: list[int] = []
        for batch in self.batches:
            yield batch
        for _ in range(len(self) - len(self.batches)):
            yield [StandIn(batch[-1])]


def data_parallel_rank(world_size: int, rank: int, model_parallel_size: int) -> DataParallelRank:
    """Return that of process `rank`; `model_parallel_size` consecutive ones read equal batches."""
    return DataParallelRank(
        size=world_size // model_parallel_size,
        rank=rank // model_parallel_size,
        is_first_of_its_batch=rank % model_parallel_size == 0,
        model_parallel_size=model_parallel_size,
    )
