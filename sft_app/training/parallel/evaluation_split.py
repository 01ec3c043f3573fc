"""How the ranks of a training share an evaluation out: as they share its batches."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from sft_app.common import ranks
from sft_app.evaluation.work_split import RowShard, WorkSplit
from sft_app.training.parallel.context_parallel import (
    ContextParallelGroup,
    context_parallel_attention,
    shard_for_context_parallel,
)
from sft_app.training.parallel.data_ranks import data_parallel_rank


def evaluation_split(context: ContextParallelGroup | None, tensor_parallel_size: int) -> WorkSplit:
    """Return the split in which each data-parallel group measures samples of its own.

    Rows are cut for the ranks of a context-parallel group as in training, so that an evaluation
    needs no more memory of each than training did.
    """
    group_size = context.size if context is not None else tensor_parallel_size
    share = data_parallel_rank(ranks.world_size(), ranks.rank(), group_size)
    if context is None:
        return WorkSplit(index=share.rank, count=share.size)
    group = context

    @contextmanager
    def shard_rows(input_ids: Tensor) -> Iterator[RowShard]:
        part, documents = shard_for_context_parallel({"input_ids": input_ids}, group)
        start = group.rank * part["input_ids"].shape[1]
        with context_parallel_attention(documents, group):
            yield RowShard(inputs=part, start=start)

    return WorkSplit(index=share.rank, count=share.size, shard_rows=shard_rows)
