"""What the host knows of a batch before it is on the device, so that nobody has to ask for it.

Where a batch is collated its numbers lie in the host's memory. Read there, once, they cost nothing;
read later, on the device, each costs a wait until all work before it is done. They travel beside
the batch, and are set while its forward runs.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sft_app.data.labels import count_supervised
from sft_app.training.attention.document_bounds import lengths_of_batch

KNOWN = "known_batch"
"""The key beside a collated batch's tensors; no tensor, so that it stays on the host."""


@dataclass(frozen=True, kw_only=True)
class KnownBatch:
    """Numbers of one collated micro-batch [B, T]."""

    num_positions: int
    """B * T."""
    num_real: int
    """Positions that are data, which ids alone do not tell from padding."""
    num_supervised: int
    """As labels.count_supervised has it."""
    lengths: tuple[int, ...]
    """Tokens of each document, as document_bounds.lengths_of_batch has it."""
    packed: bool
    """The documents are told by `position_ids`, and cover the rows without gaps."""
    documents: tuple[int, ...] = ()
    """The same of those that are data: without padding, and what stands in for missing rows."""
    items: tuple[int, ...] = ()
    """The number of each row in the training set, where the rows are numbered."""
    attention_mask: Tensor | None = field(default=None, compare=False, repr=False)
    """[B, T], 0 where rows are padded, as the collator made it: it stays on the host."""

    def documents_of_rows(self) -> list[list[int]]:
        """Return the tokens of each row's documents, in order; without padding in unpacked rows."""
        if not self.packed:
            return [[length] for length in self.lengths]
        row_length = self.num_positions // len(self.items)
        rows: list[list[int]] = [[] for _ in self.items]
        start = 0
        for length in self.lengths:
            rows[start // row_length].append(length)
            start += length
        return rows


def know_batch(
    batch: dict[str, Tensor], documents: Sequence[int], items: Sequence[int] = ()
) -> KnownBatch:
    """Read off a collated batch, on the host, what is asked for later.

    `documents`: the tokens of each that is data, which the batch alone does not tell from padding.
    """
    return KnownBatch(
        num_positions=batch["input_ids"].numel(),
        num_real=sum(documents),
        num_supervised=count_supervised(batch["labels"]),
        lengths=tuple(lengths_of_batch(batch)),
        packed="attention_mask" not in batch and "position_ids" in batch,
        documents=tuple(documents),
        items=tuple(items),
        attention_mask=batch.get("attention_mask"),
    )


_in_this_forward: ContextVar[KnownBatch | None] = ContextVar("known", default=None)


@contextmanager
def known_in_forward(known: KnownBatch | None) -> Iterator[None]:
    """Let what runs inside know the batch; None: it asks the device, as elsewhere."""
    token = _in_this_forward.set(known)
    try:
        yield
    finally:
        _in_this_forward.reset(token)


def known_lengths(position_ids: Tensor) -> tuple[int, ...] | None:
    """Return the documents' lengths of the packed rows of this forward; None where not known."""
    known = _in_this_forward.get()
    if known is None or not known.packed or known.num_positions != position_ids.numel():
        return None
    return known.lengths


def known_sequences(batch_size: int, row_length: int) -> Tensor:
    """Return, for each position [B, T] of this forward, the tokens of the sequence it is in.

    A packed document's, or a row's without its padding; the row's where nothing is known.
    """
    known = _in_this_forward.get()
    if known is None or known.num_positions != batch_size * row_length:
        return torch.full((batch_size, row_length), row_length)
    lengths = torch.tensor(known.lengths)
    if known.packed:
        return lengths.repeat_interleave(lengths).view(batch_size, row_length)
    return lengths.clamp(min=1).unsqueeze(1).expand(batch_size, row_length)


def known_padding(attention_mask: Tensor) -> Tensor:
    """Return the padding mask [B, T] of this forward from the host, where it is known there."""
    known = _in_this_forward.get()
    on_host = None if known is None else known.attention_mask
    if on_host is None or on_host.shape != attention_mask.shape:
        return attention_mask
    return on_host


def known_supervised(labels: Tensor) -> int | None:
    """Return how many positions of this forward are supervised; None where not known."""
    known = _in_this_forward.get()
    if known is None or known.num_positions != labels.numel():
        return None
    return known.num_supervised


def positions_of(flags: Tensor, count: int) -> Tensor:
    """Return where the `count` set flags of a bool tensor [N] are, without a wait for the device.

    A wrong count leaves an index that is out of bounds, here or where the result is used as one.
    """
    num_flags = flags.numel()
    places = torch.where(flags, flags.cumsum(0), 0)  # place 0 takes those that are not set
    found = torch.full((count + 1,), num_flags, dtype=torch.long, device=flags.device)
    found.scatter_(0, places, torch.arange(num_flags, device=flags.device))
    return found[1:]
