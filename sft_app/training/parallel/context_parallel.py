"""One row on several processes: each keeps consecutive positions of it.

The ranks of a context-parallel group read the same batches. What stands before and after attention
looks at one position at a time, and works on a rank's own; attention (ulysses.py) sees whole rows.
So three things have to be known of the whole row before it is cut: where its documents begin, which
position each token has, and what it is to predict, which for the last token of a part stands in the
next part.

Letters in shapes: B rows, T positions in a row, P ranks of the group.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.nn import functional as F

from sft_app.config.validation.check_parallel import check_world_size
from sft_app.training.attention.document_bounds import (
    Documents,
    documents_of_lengths,
    lengths_from_positions,
)
from sft_app.training.loss.patched_forward import IGNORED, shifted


@dataclass(frozen=True)
class ContextGroup:
    """The ranks that hold one row together."""

    group: dist.ProcessGroup
    size: int
    rank: int
    """Within the group: the number of this process's part of each row."""


@dataclass(frozen=True)
class SplitDocuments:
    """The documents of whole rows, of which each rank of `among` has a part."""

    documents: Documents
    among: ContextGroup

    def within(self, window: int | None) -> "SplitDocuments":
        """For layers that see `window` keys only (None: all)."""
        if window is not None and window >= self.documents.longest:
            window = None
        return replace(self, documents=replace(self.documents, window=window))


def form_context_group(size: int, device: torch.device) -> ContextGroup | None:
    """The group of this process among those of `size` consecutive ranks; None for groups of one.

    A collective: every rank calls it. Raises ConfigError when the processes cannot be grouped so.
    """
    world_size = dist.get_world_size() if dist.is_initialized() else 1
    check_world_size(size, world_size)
    if size == 1:
        return None
    shape = (world_size // size, size)
    mesh = init_device_mesh(device.type, shape, mesh_dim_names=("data", "context"))
    return ContextGroup(mesh.get_group("context"), size, mesh.get_local_rank("context"))


def split_rows(
    batch: dict[str, Tensor], among: ContextGroup
) -> tuple[dict[str, Tensor], Documents]:
    """This rank's part [B, T/P] of a batch [B, T], and the documents of the whole rows.

    Rows are filled up to a multiple of P, by a document of padding. `position_ids` restart with
    each document, padding included, as those of our collators do; without them each row is one
    document. `shift_labels` holds what each position predicts, and `loss_weights` its weight.
    """
    rows = _filled_up(batch, among.size)
    length = rows["input_ids"].shape[1] // among.size
    mine = slice(among.rank * length, (among.rank + 1) * length)
    lengths = lengths_from_positions(rows["position_ids"])
    part = {name: tensor[:, mine].contiguous() for name, tensor in rows.items()}
    return part, documents_of_lengths(lengths, rows["input_ids"].device)


def _filled_up(batch: dict[str, Tensor], multiple: int) -> dict[str, Tensor]:
    """Whole rows, labels shifted; an attention mask says nothing that the positions do not."""
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
        predicted = F.pad(shifted(batch["labels"], IGNORED), (0, missing), value=IGNORED)
        # Under both names: Trainers count the supervised tokens of either.
        rows["labels"] = rows["shift_labels"] = predicted
    if "loss_weights" in batch:
        rows["loss_weights"] = F.pad(shifted(batch["loss_weights"], 0), (0, missing))
    return rows


_in_this_forward: ContextVar[SplitDocuments | None] = ContextVar("documents", default=None)


@contextmanager
def attention_over_whole_rows(documents: Documents, among: ContextGroup) -> Iterator[None]:
    """Forwards in here are of one part of the rows that `documents` cover.

    Backward, with all that it recomputes, may come later: the layers are handed the documents.
    """
    token = _in_this_forward.set(SplitDocuments(documents, among))
    try:
        yield
    finally:
        _in_this_forward.reset(token)


def documents_of_this_forward() -> SplitDocuments | None:
    """None outside of `attention_over_whole_rows`: rows are whole."""
    return _in_this_forward.get()
