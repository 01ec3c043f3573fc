"""Perplexity by context length, on the same long documents for every length."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sft_app.evaluation.language.heldout_loss import perplexity
from sft_app.evaluation.language.long_documents import LongDocuments
from sft_app.evaluation.language.text_digest import text_digest
from sft_app.evaluation.token_reader import TokenReader
from sft_app.records.result import LossMeasurement


def measure_by_length(
    reader: TokenReader, long: LongDocuments, *, stride: int | None = None, max_windows: int = 16
) -> dict[str, LossMeasurement]:
    """Return, by length n, the mean loss of the tokens that a context of n tokens is behind.

    Without a stride: of all predictions inside the first n tokens of each document. With one: of
    the last `stride` tokens of windows of n tokens that slide over the document by `stride` (Press
    et al. 2022, arXiv:2108.12409, section 2; position interpolation takes 256), of which at most
    `max_windows` of a document are read, evenly spread. One forward for each row, for the
    frequencies of some methods follow the length.
    """
    if stride is None:
        return {
            str(n): mean_loss(document_losses(reader, long.documents, n), long.documents)
            for n in long.lengths
        }
    return {str(n): _in_windows(reader, long, n, stride, max_windows) for n in long.lengths}


def document_losses(reader: TokenReader, documents: Sequence[Tensor], length: int) -> Tensor:
    """Return the loss of each token but the first of each document's first `length`: [N, T-1].

    The same on every rank; float32, on the CPU.
    """
    rows = torch.stack([document[:length] for document in documents])
    found = torch.zeros(len(rows), length - 1)
    batches = torch.arange(len(rows)).split(reader.rows_at_once(length))
    for number, counts in reader.split.turns(len(batches)):
        losses = reader.losses(rows[batches[number]])
        if counts:
            found[batches[number]] = losses
    return reader.split.sum(found, reader.device)


def mean_loss(losses: Tensor, documents: Sequence[Tensor]) -> LossMeasurement:
    """Sum up losses [N, T-1] of the first T tokens of N documents."""
    loss = losses.double().mean().item()
    return LossMeasurement(
        loss=loss,
        perplexity=perplexity(loss),
        tokens=losses.numel(),
        examples=len(losses),
        text=text_digest(document[: losses.shape[1] + 1] for document in documents),
    )


@dataclass(frozen=True)
class _Window:
    document: int
    start: int


def _in_windows(
    reader: TokenReader, long: LongDocuments, length: int, stride: int, max_windows: int
) -> LossMeasurement:
    scored = min(stride, length - 1)
    windows = [
        _Window(number, start)
        for number, document in enumerate(long.documents)
        for start in evenly_spread(range(0, len(document) - length + 1, stride), max_windows)
    ]
    wanted = torch.zeros(1, length - 1, dtype=torch.bool)
    wanted[:, -scored:] = True
    nats = torch.zeros(1, dtype=torch.float64)
    batches = torch.arange(len(windows)).split(reader.rows_at_once(length))
    for number, counts in reader.split.turns(len(batches)):
        chosen = [windows[i] for i in batches[number]]
        rows = torch.stack([long.documents[w.document][w.start : w.start + length] for w in chosen])
        losses = reader.losses(rows, wanted.expand(len(rows), -1))
        if counts:
            nats += losses.double().sum()
    tokens = scored * len(windows)
    loss = reader.split.sum(nats, reader.device).item() / tokens if tokens else math.nan
    return LossMeasurement(
        loss=loss,
        perplexity=perplexity(loss),
        tokens=tokens,
        examples=len(long.documents),
        text=text_digest(long.documents),
    )


def evenly_spread(values: range, most: int) -> list[int]:
    """Return all of few values; of many, `most` from the first to the last."""
    if len(values) <= most:
        return list(values)
    if most == 1:
        return [values[-1]]
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]
