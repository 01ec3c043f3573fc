"""Context parallelism: each rank of a group keeps one sequence shard of every row.

The ranks of a group read the same batches. What stands before and after attention looks at one
position at a time, and works on a rank's own shard; attention (ulysses.py) sees whole rows. Three
things have to be known of the whole row before it is sharded: where its documents begin, which
position each token has, and what it is to predict, which for the last token of a shard stands in
the next one.

Letters in shapes: B rows, T positions in a row, P ranks of the group.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.nn import functional as F

from sft_app.common import ranks
from sft_app.config.validation.check_parallel import check_world_size
from sft_app.data.labels import IGNORE_INDEX, shift_labels, shift_left
from sft_app.training.attention.document_bounds import (
    Documents,
    documents_of_lengths,
    lengths_from_positions,
)


@dataclass(frozen=True)
class ContextParallelGroup:
    """The ranks that hold one row together."""

    group: dist.ProcessGroup
    size: int
    rank: int
    """Within the group: the index of this process's shard of each row."""


@dataclass(frozen=True)
class ContextParallelDocuments:
    """The documents of whole rows, of which each rank of `cp_group` has a shard."""

    documents: Documents
    cp_group: ContextParallelGroup

    def within(self, window: int | None) -> "ContextParallelDocuments":
        """Return the same for layers that see `window` keys only (None: all)."""
        if window is not None and window >= self.documents.max_seqlen:
            window = None
        return replace(self, documents=replace(self.documents, window=window))


def init_context_parallel_group(size: int, device: torch.device) -> ContextParallelGroup | None:
    """Return this process's group of `size` consecutive ranks; None for groups of one.

    A collective: every rank calls it. Raises ConfigError when the processes cannot be grouped so.
    """
    world_size = ranks.world_size()
    check_world_size(size, world_size)
    if size == 1:
        return None
    shape = (world_size // size, size)
    mesh = init_device_mesh(device.type, shape, mesh_dim_names=("data", "context"))
    return ContextParallelGroup(mesh.get_group("context"), size, mesh.get_local_rank("context"))


def shard_for_context_parallel(
    batch: dict[str, Tensor],
    cp_group: ContextParallelGroup,
    known_lengths: Sequence[int] | None = None,
) -> tuple[dict[str, Tensor], Documents]:
    """Return this rank's shard [B, T/P] of a batch [B, T], and the documents of the whole rows.

    Rows are filled up to a multiple of P, by a document of padding. `position_ids` restart with
    each document, padding included, as those of our collators do; without them each row is one
    document. `shift_labels` holds what each position predicts, and `loss_weights` its weight.
    `known_lengths` are those of the documents of `batch`, where the host knows them.
    """
    rows = _filled_up(batch, cp_group.size)
    length = rows["input_ids"].shape[1] // cp_group.size
    mine = slice(cp_group.rank * length, (cp_group.rank + 1) * length)
    if known_lengths is not None and sum(known_lengths) == rows["input_ids"].numel():
        lengths = list(known_lengths)
    else:
        lengths = lengths_from_positions(rows["position_ids"])
    shard = {name: tensor[:, mine].contiguous() for name, tensor in rows.items()}
    return shard, documents_of_lengths(lengths, rows["input_ids"].device)


def _filled_up(batch: dict[str, Tensor], multiple: int) -> dict[str, Tensor]:
    """Return whole rows, labels shifted; an attention mask adds nothing to what positions say."""
    count, length = batch["input_ids"].shape
    missing = -length % multiple
    positions = batch.get("position_ids")
    if positions is None:
        positions = torch.arange(length, device=batch["input_ids"].device).expand(count, -1)
    padding = torch.arange(missing, device=positions.device).expand(count, -1)
    rows = {
        "input_ids": F.pad(batch["input_ids"], (0, missing)),
        "position_ids": torch.cat([positions, padding], dim=1),
    }
    if "labels" in batch:
        predicted = F.pad(shift_labels(batch["labels"]), (0, missing), value=IGNORE_INDEX)
        # Under both names: Trainers count the supervised tokens of either.
        rows["labels"] = rows["shift_labels"] = predicted
    if "loss_weights" in batch:
        rows["loss_weights"] = F.pad(shift_left(batch["loss_weights"], 0), (0, missing))
    return rows


_in_this_forward: ContextVar[ContextParallelDocuments | None] = ContextVar(
    "documents", default=None
)


@contextmanager
def context_parallel_attention(
    documents: Documents, cp_group: ContextParallelGroup
) -> Iterator[None]:
    """Run forwards on this rank's shard of the rows that `documents` cover.

    Backward, with all that it recomputes, may come later: the layers are handed the documents.
    """
    token = _in_this_forward.set(ContextParallelDocuments(documents, cp_group))
    try:
        yield
    finally:
        _in_this_forward.reset(token)


def documents_of_this_forward() -> ContextParallelDocuments | None:
    """Return what `context_parallel_attention` has set; None outside of it: rows are whole."""
    return _in_this_forward.get()
