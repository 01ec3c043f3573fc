"""Items to batches of shape [B, T], always padded at the end."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sft_app.data.dataset import padding_document


@dataclass(frozen=True, slots=True)
class CollateDocuments:
    """For rows that rely on position_ids to keep documents apart (packing=best_fit).

    The batch has no attention_mask: transformers isolates documents by their positions only when
    it is given none. Shorter items are padded to the longest with a document of padding, so that
    packed rows, which are all of one length, stay as they are.
    """

    pad_token_id: int

    def __call__(self, items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        longest = max(len(item["input_ids"]) for item in items)
        padded = []
        for item in items:
            missing = longest - len(item["input_ids"])
            padding = padding_document(missing, self.pad_token_id, "loss_weights" in item)
            padded.append({key: torch.cat([item[key], padding[key]]) for key in item})
        return {key: torch.stack([item[key] for item in padded]) for key in items[0]}


@dataclass(frozen=True, slots=True)
class CollateExamples:
    """For one document per item (packing=none): padded to the longest, with an attention_mask.

    The mask is made of lengths: a pad token that is also the end token stays visible where it is
    text.
    """

    pad_token_id: int

    def __call__(self, items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        batch = CollateDocuments(self.pad_token_id)(items)
        lengths = torch.tensor([len(item["input_ids"]) for item in items])
        longest = batch["input_ids"].shape[1]
        batch["attention_mask"] = (torch.arange(longest) < lengths[:, None]).long()
        return batch
