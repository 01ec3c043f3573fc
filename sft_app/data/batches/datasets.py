"""Torch datasets over memory-mapped tokens."""

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sft_app.data.batches.fit_rows import Document
from sft_app.data.labels import IGNORE_INDEX
from sft_app.data.store.token_store import TokenStore


class ExampleDataset(Dataset[dict[str, Tensor]]):
    """Give one document per item: LongTensors [T] input_ids, labels (not shifted), position_ids.

    When `weighted`, float loss_weights [T] as well.
    """

    def __init__(self, store: TokenStore, documents: list[Document], weighted: bool) -> None:
        """Choose the documents of `store`, with loss_weights where `weighted`."""
        self.store = store
        self.documents = documents
        self.weighted = weighted
        self.lengths = [document.chunk.length for document in documents]
        """Tokens of each item, for batches of similar length."""

    def __len__(self) -> int:
        """Count the documents."""
        return len(self.documents)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return the tensors [T] of one document."""
        row, chunk = self.documents[index].row, self.documents[index].chunk
        ids = self.store.input_ids(row)
        tokens = np.concatenate([ids[: chunk.opening], ids[chunk.start : chunk.stop]])
        tokens = tokens.astype(np.int64)
        labels = np.full(chunk.length, IGNORE_INDEX, dtype=np.int64)
        weights = np.zeros(chunk.length, dtype=np.float32)
        for span in self.store.spans(row):
            places = chunk.place(span.start, span.stop)
            if places:
                labels[places.start : places.stop] = tokens[places.start : places.stop]
                weights[places.start : places.stop] = span.weight
        item = {
            "input_ids": torch.from_numpy(tokens),
            "labels": torch.from_numpy(labels),
            "position_ids": torch.arange(chunk.length),
        }
        if self.weighted:
            item["loss_weights"] = torch.from_numpy(weights)
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

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return the tensors [T] of one row, its documents one after the other."""
        documents = [self.examples[example] for example in self.rows[index]]
        return {key: torch.cat([d[key] for d in documents]) for key in documents[0]}


LONGEST_PADDING_DOCUMENT = 256
"""Tokens. Padding attends inside its documents like any text: in long ones it would cost the square
of their length, in one for each token a call for each on a CPU."""


def padding_documents(length: int, pad_token_id: int, weighted: bool) -> dict[str, Tensor]:
    """Return tokens [length] without labels, which nothing attends to: their positions restart."""
    document = {
        "input_ids": torch.full((length,), pad_token_id),
        "labels": torch.full((length,), IGNORE_INDEX),
        "position_ids": torch.arange(length) % LONGEST_PADDING_DOCUMENT,
    }
    if weighted:
        document["loss_weights"] = torch.zeros(length)
    return document
