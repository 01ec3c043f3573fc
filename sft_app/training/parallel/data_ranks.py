"""Which batches a process reads, where several processes work on the same ones."""

from dataclasses import dataclass

from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import DataLoader


@dataclass(frozen=True)
class DataParallelRank:
    count: int
    """Groups of processes; each group reads batches of its own."""
    index: int
    """This process's group."""
    counts: bool
    """Whether this process counts what its group reads."""
    group_size: int

    def __str__(self) -> str:
        if self.group_size == 1:
            return f"{self.count} processes"
        groups = "1 group" if self.count == 1 else f"{self.count} groups"
        return f"{groups} of {self.group_size} processes"

    def apply(self, loader: DataLoader) -> None:
        """Have a loader that accelerate prepared yield the batches of this group.

        accelerate deals batches out to all processes in turn; a single one needs no dealer.
        """
        dealer = loader.batch_sampler
        if not isinstance(dealer, BatchSamplerShard):
            assert self.group_size == 1, "accelerate deals out where there are several processes"
            return
        dealer.num_processes = self.count
        dealer.process_index = self.index
        if self.count == 1:  # nobody to keep step with: the last batch may be a short one
            dealer.even_batches = False
        # accelerate looks for the sampler here when it skips what was read before a resume. Without
        # it, the order of the first epoch would be that of every resumed one.
        dealer.sampler = dealer.batch_sampler.sampler


def data_parallel_rank(world_size: int, rank: int, group_size: int) -> DataParallelRank:
    """Of process `rank`, where `group_size` consecutive ones read the same batches."""
    return DataParallelRank(
        count=world_size // group_size,
        index=rank // group_size,
        counts=rank % group_size == 0,
        group_size=group_size,
    )
