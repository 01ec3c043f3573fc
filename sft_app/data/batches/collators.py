"""Items to batches of shape [B, T], always padded at the end."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sft_app.data.batches.datasets import padding_documents


@dataclass(frozen=True, slots=True)
class CollateDocuments:
    """Make batches of rows that rely on position_ids to keep documents apart (packing=best_fit).

    The batch has no attention_mask: transformers isolates documents by their positions only when
    it is given none. Rows are filled up to `length` with documents of padding: one shape for
    every batch.
    """

    pad_token_id: int
    length: int

    def __call__(self, items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return LongTensors [B, length] input_ids, labels, position_ids (and FACTORS)."""
        return _padded(items, self.length, self.pad_token_id)


@dataclass(frozen=True, slots=True)
class CollateExamples:
    """Make batches of one document per item (packing=none): padded to the longest, and masked.

    The mask is made of lengths: a pad token that is also the end token stays visible where it is
    text.
    """

    pad_token_id: int

    def __call__(self, items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return tensors [B, longest], with an attention_mask."""
        lengths = torch.tensor([len(item["input_ids"]) for item in items])
        longest = int(lengths.max())
        batch = _padded(items, longest, self.pad_token_id)
        batch["attention_mask"] = (torch.arange(longest) < lengths[:, None]).long()
        return batch


def _padded(items: list[dict[str, Tensor]], length: int, pad_token_id: int) -> dict[str, Tensor]:
    padded = []
    for item in items:
        missing = length - len(item["input_ids"])
        padding = padding_documents(missing, pad_token_id)
        padded.append({key: torch.cat([item[key], padding[key]]) for key in item})
    return {key: torch.stack([item[key] for item in padded]) for key in items[0]}
