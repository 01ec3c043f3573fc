"""Rows of a store to the documents that training sees, with a count of what is lost."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sft_app.config.schema.data import Overlong
from sft_app.data.batches.fit import Chunk, fit
from sft_app.data.chat.tokenize import TokenSpan
from sft_app.data.statistics import FitStatistics, add_counts
from sft_app.data.store.token_store import TokenStore


@dataclass(frozen=True, slots=True)
class Document:
    """Name a chunk of a row of the store."""

    row: int
    chunk: Chunk


def fit_rows(
    store: TokenStore, rows: np.ndarray, *, context_length: int, overlong: Overlong
) -> tuple[list[Document], FitStatistics]:
    """Fit each row to the context, in the order of `rows` (a row may come more than once)."""
    documents: list[Document] = []
    statistics = FitStatistics(examples=len(rows), tokens=int(store.lengths[rows].sum()))
    for row in rows.tolist():
        length, spans = int(store.lengths[row]), store.spans(row)
        fitted = fit(
            length,
            spans,
            store.breaks(row) if length > context_length else [],
            int(store.opening[row]),
            bool(store.is_passage[row]),
            context_length=context_length,
            overlong=overlong,
        )
        chunks = [chunk for chunk in fitted.chunks if num_supervised(chunk, spans)]
        lost = fitted.lost + Counter(no_labels=num_tokens(fitted.chunks) - num_tokens(chunks))
        documents += [Document(row, chunk) for chunk in chunks]
        statistics.weighted |= any(span.weight != 1 for span in spans)
        statistics.overlong += length > context_length
        statistics.dropped += not chunks
        statistics.truncated += bool(chunks) and bool(lost)
        statistics.split += len(chunks) > 1
        statistics.split_and_truncated += len(chunks) > 1 and bool(lost)
        statistics.chunks += len(chunks)
        statistics.used_tokens += num_tokens(chunks)
        statistics.supervised_tokens += sum(num_supervised(chunk, spans) for chunk in chunks)
        add_counts(statistics.lost_tokens, lost)
    return documents, statistics


def num_supervised(chunk: Chunk, spans: Sequence[TokenSpan]) -> int:
    """Count the tokens of `chunk` that carry labels."""
    return sum(len(chunk.place(span.start, span.stop)) for span in spans)


def num_tokens(chunks: Sequence[Chunk]) -> int:
    """Count the tokens of chunks, repeated ones each time."""
    return sum(chunk.length for chunk in chunks)
