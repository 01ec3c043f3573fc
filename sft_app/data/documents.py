"""Rows of a store to the documents that training sees, with a count of what is lost."""

from dataclasses import dataclass

import numpy as np

from sft_app.config.data import Overlong
from sft_app.data.fit import Piece, fit
from sft_app.data.statistics import FitStatistics, add_counts
from sft_app.data.store import TokenStore


@dataclass(frozen=True, slots=True)
class Document:
    """A piece of a row of the store."""

    row: int
    piece: Piece


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
        documents += [Document(row, piece) for piece in fitted.pieces]
        statistics.weighted |= any(span.weight != 1 for span in spans)
        statistics.overlong += length > context_length
        statistics.dropped += not fitted.pieces
        statistics.truncated += bool(fitted.pieces) and bool(fitted.lost)
        statistics.split += len(fitted.pieces) > 1
        statistics.pieces += len(fitted.pieces)
        statistics.used_tokens += sum(piece.length for piece in fitted.pieces)
        statistics.supervised_tokens += sum(
            max(0, min(span.stop, piece.stop) - max(span.start, piece.start))
            for piece in fitted.pieces
            for span in spans
        )
        add_counts(statistics.lost_tokens, fitted.lost)
    return documents, statistics
