"""A head whose rows, one for each word, are shared by tensor-parallel ranks.

Every rank has the same hidden states, and the logits of its own words. What the softmax needs of
all words is a maximum and two sums for each position, reduced over the ranks, so that neither the
head nor its logits are ever gathered (Megatron-LM, arXiv 1909.08053, section 3).
"""

import math
from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard


@dataclass(frozen=True)
class VocabularyShard:
    """The words of this rank."""

    group: dist.ProcessGroup
    start: int
    """The first of them."""
    most_words: int
    """Of any rank: what all of them count by."""

    def maximum(self, values: Tensor) -> Tensor:
        """Return the largest over the ranks, in place."""
        dist.all_reduce(values, dist.ReduceOp.MAX, group=self.group)
        return values

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over the ranks, in place."""
        dist.all_reduce(values, group=self.group)
        return values


def vocabulary_shard(weight: Tensor) -> VocabularyShard | None:
    """Return what this rank has of the head `weight` [V, D]; None where it has all of it.

    Also None where the rows are shared in another way: then they have to be gathered.
    """
    if not isinstance(weight, DTensor) or weight.placements != (Shard(0),):
        return None
    mesh = weight.device_mesh
    if "tp" not in (mesh.mesh_dim_names or ()):
        return None
    most_words = math.ceil(weight.shape[0] / mesh.size())  # as torch.chunk cuts
    start = mesh.get_local_rank() * most_words
    if weight.shape[0] <= (mesh.size() - 1) * most_words:  # a rank without a word
        return None
    return VocabularyShard(mesh.get_group(), start, most_words)
