"""Torch datasets over memory-mapped tokens."""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sft_app.data.batches.fit_rows import FittedRows
from sft_app.data.labels import IGNORE_INDEX

CONVERSATION_SHARE = "conversation_share"
"""Beside the labels: what part of its whole conversation a supervised token is; 0 of others."""
FACTORS = ("loss_weights", CONVERSATION_SHARE)
"""What an item may have beside the integers: a float for each token, 0 for padding."""


class ExampleDataset(Dataset[dict[str, Tensor]]):
    """Give one document per item: LongTensors [T] input_ids, labels (not shifted), position_ids.

    When `weighted`, float loss_weights [T] as well; `with_shares`, conversation_share [T], which
    sums to 1 over all documents of a conversation that was split.
    """

    def __init__(
        self,
        fitted: FittedRows,
        documents: np.ndarray,
        weighted: bool,
        *,
        with_shares: bool = False,
    ) -> None:
        """Choose documents by their numbers, int64 [N], with loss_weights where `weighted`."""
        self.fitted = fitted
        self.documents = documents
        self.weighted = weighted
        self.with_shares = with_shares
        self.lengths: list[int] = fitted.length[documents].tolist()
        """Tokens of each item, for batches of similar length."""

    @property
    def document_lengths(self) -> list[int]:
        """Tokens of each document: an item is one."""
        return self.lengths

    def __len__(self) -> int:
        """Count the documents."""
        return len(self.documents)

    def records_of(self, index: int) -> list[str]:
        """Say from which record an item was made, as one name in a list."""
        return [self.fitted.store.record_of(int(self.fitted.row[self.documents[index]]))]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return the tensors [T] of one document."""
        number = int(self.documents[index])
        row = int(self.fitted.row[number])
        first, last = self.fitted.first_segment[number : number + 2].tolist()
        bounds = [
            array[first:last].tolist()
            for array in (
                self.fitted.segment_start,
                self.fitted.segment_stop,
                self.fitted.segment_supervised,
            )
        ]
        ids, spans = self.fitted.store.input_ids(row), self.fitted.store.spans(row)
        length = self.lengths[index]
        tokens = np.empty(length, dtype=np.int64)
        labels = np.full(length, IGNORE_INDEX, dtype=np.int64)
        weights = np.zeros(length, dtype=np.float32)
        at = 0
        for start, stop, supervised in zip(*bounds, strict=True):
            tokens[at : at + stop - start] = ids[start:stop]
            for span in spans if supervised else ():
                # Nothing precedes the first token, or in a packed row another document does.
                low = max(max(span.start, start) - start + at, 1)
                high = min(span.stop, stop) - start + at
                if low < high:
                    labels[low:high] = tokens[low:high]
                    weights[low:high] = span.weight
            at += stop - start
        item = {
            "input_ids": torch.from_numpy(tokens),
            "labels": torch.from_numpy(labels),
            "position_ids": torch.arange(length),
        }
        if self.weighted:
            item["loss_weights"] = torch.from_numpy(weights)
        if self.with_shares:
            share = np.float32(1 / max(1, int(self.fitted.supervised[row])))
            shares = np.where(labels != IGNORE_INDEX, share, np.float32(0))
            item[CONVERSATION_SHARE] = torch.from_numpy(shares)
        return item


class PackedDataset(Dataset[dict[str, Tensor]]):
    """Give one row per item: documents one after the other, positions restarting at 0 for each.

    Rows are not padded: CollateDocuments fills them up, so that a batch still knows what is data.
    """

    def __init__(self, examples: ExampleDataset, rows: list[list[int]]) -> None:
        """Make rows of the indices of `examples`."""
        self.examples = examples
        self.rows = rows
        self.lengths = [sum(examples.lengths[index] for index in row) for row in rows]
        """Tokens of each row."""

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.rows)

    @property
    def document_lengths(self) -> list[int]:
        """Tokens of each document of all rows."""
        return [self.examples.lengths[index] for row in self.rows for index in row]

    def records_of(self, index: int) -> list[str]:
        """Say from which records a row was made, in the order of its documents."""
        return [record for i in self.rows[index] for record in self.examples.records_of(i)]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return the tensors [T] of one row, its documents one after the other."""
        documents = [self.examples[example] for example in self.rows[index]]
        return {key: torch.cat([d[key] for d in documents]) for key in documents[0]}


ITEM = "item"
"""Beside the tensors of an item: its number in the training set, a scalar."""


STANDS_IN = "stands_in"
"""Beside the tensors of an item that stands in for one that is missing."""


class StandIn(int):
    """The number of an item that is read in the place of a missing one, and not learned."""


class Items(Protocol):
    """A dataset that has a length, or a list."""

    def __len__(self) -> int:
        """Count the items."""

    def __getitem__(self, index: int, /) -> dict[str, Tensor]:
        """Return the tensors of one item."""


class NumberedItems(Dataset[dict[str, Tensor]]):
    """Give the items of a dataset with their numbers: what a batch was made of can be told."""

    def __init__(self, items: Items) -> None:
        """Number these items, from 0."""
        self.items = items

    def __len__(self) -> int:
        """Count the items."""
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return the tensors of one item, and its number; of a `StandIn`, without a label."""
        item = {**self.items[index], ITEM: torch.tensor(int(index))}
        if isinstance(index, StandIn):
            item["labels"] = torch.full_like(item["labels"], IGNORE_INDEX)
            item |= {name: torch.zeros_like(item[name]) for name in FACTORS if name in item}
            item[STANDS_IN] = torch.tensor(True)
        return item


LONGEST_PADDING_DOCUMENT = 256
"""Tokens. Padding attends inside its documents like any text: in long ones it would cost the square
of their length, in one for each token a call for each on a CPU."""


def padding_documents(length: int, pad_token_id: int) -> dict[str, Tensor]:
    """Return tokens [length] without labels, which nothing attends to: their positions restart."""
    return {
        "input_ids": torch.full((length,), pad_token_id),
        "labels": torch.full((length,), IGNORE_INDEX),
        "position_ids": torch.arange(length) % LONGEST_PADDING_DOCUMENT,
        **{name: torch.zeros(length) for name in FACTORS},
    }
