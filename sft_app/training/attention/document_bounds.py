"""Where the documents of a packed batch begin and end.

Letters in shapes: B rows, T positions in a row, N = B*T positions of the flattened batch,
H query heads, K key and value heads, D size of a head.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FunctionType

import torch

MaskFunction = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""transformers' mask function: (row, head, query, key) indices, broadcast together -> bool."""


@dataclass(eq=False)  # not frozen: PyTorch 2.11 would compile layers anew for each length in it
class Documents:
    """Consecutive documents that cover the flattened batch of N positions without gaps.

    Computed once per forward and handed to every layer in the place of the attention mask, to be
    read only.
    """

    lengths: tuple[int, ...]
    """Tokens of each document, on the host; their sum is N."""
    cu_seqlens: torch.Tensor
    """int32 [len(lengths) + 1], on the model's device: 0, end of the first, ..., N."""
    window: int | None = None
    """Keys that a query may see, itself included; None: all before it in its document."""

    @property
    def max_seqlen(self) -> int:
        """Return the tokens of the longest document."""
        return max(self.lengths)


def documents_of_lengths(
    lengths: list[int], device: torch.device | str, window: int | None = None
) -> Documents:
    """Return consecutive documents of these lengths (tokens)."""
    ends = torch.tensor([0, *lengths]).cumsum(0)
    return Documents(tuple(lengths), ends.to(device=device, dtype=torch.int32), window)


def documents_of_mask(
    mask_function: MaskFunction,
    batch_size: int,
    row_length: int,
    window: int | None,
    device: torch.device | str,
    attention_mask: torch.Tensor | None = None,
    known_lengths: Sequence[int] | None = None,
) -> Documents | None:
    """Read the documents off the rule that a dense mask would be filled from.

    A position that may not look at the one before it begins a document. This costs B*T
    evaluations where the mask costs B*T*T, and sees exactly what the dense path would see, chunked
    attention included. `attention_mask` [B, T], on the device or the host, marks padding on one
    side of each row, which becomes a document of its own. `known_lengths` are documents that the
    rule need not know of. None when there are no such documents: some position may look ahead, or
    padding stands between tokens.
    """
    # Read where it costs no wait, if it is the same for every batch.
    on_host = attention_mask is None or attention_mask.is_cpu
    where = "cpu" if on_host and not _holds_tensors(mask_function) else device
    row = torch.arange(batch_size, device=where)[:, None]
    head = torch.zeros(1, 1, dtype=torch.long, device=where)
    later = torch.arange(1, row_length, device=where)[None, :]
    shape = (batch_size, row_length - 1)
    probes = torch.stack(
        [
            mask_function(row, head, later, later - 1).expand(shape),
            mask_function(row, head, later - 1, later).expand(shape),
        ]
    )
    if attention_mask is not None:
        changes = (attention_mask[:, 1:] != attention_mask[:, :-1]).unsqueeze(0).to(where)
        probes = torch.cat([probes, changes])
    looks_back, looks_ahead, *pads = probes.cpu()  # waits where it is on a device
    if bool(looks_ahead.any()) or any(bool((pad.sum(1) > 1).any()) for pad in pads):
        return None
    begins = torch.ones(batch_size, row_length, dtype=torch.bool)
    begins[:, 1:] = ~looks_back
    for pad in pads:
        begins[:, 1:] |= pad
    if known_lengths is not None:
        begins.view(-1)[torch.tensor([0, *known_lengths[:-1]]).cumsum(0)] = True
    starts = begins.flatten().nonzero().flatten().tolist()
    ends = [*starts[1:], batch_size * row_length]
    lengths = [end - start for start, end in zip(starts, ends, strict=True)]
    if window is not None and window >= max(lengths):
        window = None
    return documents_of_lengths(lengths, device, window)


def _holds_tensors(function: Callable[..., object]) -> bool:
    """Tell whether a mask's rule looks anything up in a tensor, or cannot be looked into."""
    if not isinstance(function, FunctionType):
        return True
    held = [cell.cell_contents for cell in function.__closure__ or ()]
    held += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    return any(_is_or_holds_tensors(value) for value in held)


def _is_or_holds_tensors(value: object) -> bool:
    if isinstance(value, tuple | list):
        return any(map(_is_or_holds_tensors, value))
    if value is None or isinstance(value, bool | int | float | str):
        return False
    return _holds_tensors(value) if callable(value) else True


def documents_as_rule(
    lengths: Sequence[int], batch_size: int, device: torch.device | str
) -> MaskFunction:
    """Return the rule that a query sees its own document alone; lengths cover whole rows."""
    which = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    document = which.view(batch_size, -1).to(device)

    def same_document(
        row: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor
    ) -> torch.Tensor:
        return document[row, query] == document[row, key]

    return same_document


def lengths_of_batch(batch: dict[str, torch.Tensor]) -> list[int]:
    """Return the tokens of each document in a batch as our collators make it.

    Padding at the end of a packed row counts as a document, as it does in the forward.
    """
    if "attention_mask" in batch:
        lengths: list[int] = batch["attention_mask"].sum(1).tolist()
        return lengths
    if "position_ids" in batch:
        return lengths_from_positions(batch["position_ids"])
    rows, row_length = batch["input_ids"].shape
    return [row_length] * rows


def lengths_from_positions(position_ids: torch.Tensor) -> list[int]:
    """Return the lengths of documents in `position_ids` [B, T], which restart at 0 with each."""
    begins = position_ids.cpu() == 0
    begins[:, 0] = True
    starts = begins.flatten().nonzero().flatten().tolist()
    ends = [*starts[1:], position_ids.numel()]
    return [end - start for start, end in zip(starts, ends, strict=True)]
