"""Rows of a store to the documents that training sees, with a count of what is lost."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sft_app.config.schema.data import Overlong
from sft_app.data.batches.fit import Piece, fit
from sft_app.data.chat.tokenize import TokenSpan
from sft_app.data.statistics import FitStatistics, add_counts
from sft_app.data.store.token_store import TokenStore


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
        pieces = [piece for piece in fitted.pieces if num_learned(piece, spans)]
        lost = fitted.lost + Counter(no_labels=num_tokens(fitted.pieces) - num_tokens(pieces))
        documents += [Document(row, piece) for piece in pieces]
        statistics.weighted |= any(span.weight != 1 for span in spans)
        statistics.overlong += length > context_length
        statistics.dropped += not pieces
        statistics.truncated += bool(pieces) and bool(lost)
        statistics.split += len(pieces) > 1
        statistics.pieces += len(pieces)
        statistics.used_tokens += num_tokens(pieces)
        statistics.supervised_tokens += sum(num_learned(piece, spans) for piece in pieces)
        add_counts(statistics.lost_tokens, lost)
    return documents, statistics


def num_learned(piece: Piece, spans: Sequence[TokenSpan]) -> int:
    return sum(len(piece.place(span.start, span.stop)) for span in spans)


def num_tokens(pieces: Sequence[Piece]) -> int:
    return sum(piece.length for piece in pieces)
