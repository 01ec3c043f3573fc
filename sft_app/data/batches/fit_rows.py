"""All rows of a store fitted to one context length: made once, then memory-mapped by every process.

Rows that fit are handled together; only the longer ones are looked at one by one.
"""

import logging
from collections import Counter
from pathlib import Path

import numpy as np

from sft_app.config.schema.data import Overlong, OverlongQuestion
from sft_app.data.batches.fit import Shape, fit
from sft_app.data.statistics import FitStatistics
from sft_app.data.store.token_cache import cached
from sft_app.data.store.token_store import TokenStore

log = logging.getLogger(__name__)

REASONS = ("dropped", "truncated", "no_labels", "shortened", "long_question")
"""Why tokens are in no document."""

_ARRAYS = (
    "row",
    "length",
    "first_segment",
    "segment_start",
    "segment_stop",
    "segment_supervised",
    "first_document",
    "lost",
    "labels",
    "supervised",
    "shortened",
    "continued",
)


class FittedRows:
    """Hold the documents of a store of R rows, D documents and S segments.

    `row` [D] and `length` [D]: a document's row, and its tokens; `first_segment` [D + 1];
    `segment_start`, `segment_stop`, `segment_supervised` [S]; `first_document` [R + 1]; and by row
    `lost` [R, reasons], `labels` (of the whole row), `supervised` (those that are used),
    `shortened`, `continued` [R].
    """

    def __init__(self, store: TokenStore, arrays: dict[str, np.ndarray], folder: Path | None):
        """Take arrays by name, and the folder that they are mapped from, if they are."""
        self.store = store
        self.folder = folder
        self._arrays = arrays

    def __getattr__(self, name: str) -> np.ndarray:
        """Return one of the arrays."""
        if name not in _ARRAYS:
            raise AttributeError(name)
        return self._arrays[name]

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        """Pickle the path alone, where there is one."""
        if self.folder is None:
            return FittedRows, (self.store, self._arrays, None)
        return load_fitted, (self.store, self.folder)

    def documents_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the numbers of the documents of rows, in their order, each as often as its row."""
        first, count = self.first_document[rows], np.diff(self.first_document)[rows]
        ends = np.cumsum(count)
        return np.repeat(first - ends + count, count) + np.arange(ends[-1] if len(ends) else 0)

    def statistics(self, rows: np.ndarray, context_length: int) -> FitStatistics:
        """Count what became of rows, each as often as it stands there."""
        lengths, chunks = self.store.lengths[rows], np.diff(self.first_document)[rows]
        lost = self.lost[rows]
        supervised, labels = self.supervised[rows], self.labels[rows]
        begins = np.diff(self.store.conversation, prepend=-1) != 0  # rows of one are neighbours
        return FitStatistics(
            conversations=int(begins[rows].sum()),
            examples=len(rows),
            tokens=int(lengths.sum()),
            overlong=int((lengths > context_length).sum()),
            dropped=int((chunks == 0).sum()),
            truncated=int(((chunks > 0) & lost.any(axis=1)).sum()),
            split=int((chunks > 1).sum()),
            split_and_truncated=int(((chunks > 1) & lost.any(axis=1)).sum()),
            chunks=int(chunks.sum()),
            used_tokens=int(self.length[self.documents_of(rows)].sum()),
            supervised_tokens=int(supervised.sum()),
            lost_labels=int((labels - supervised).sum()),
            shortened_questions=int(self.shortened[rows].sum()),
            continued_answers=int(self.continued[rows].sum()),
            lost_tokens={
                reason: int(count)
                for reason, count in zip(REASONS, lost.sum(axis=0), strict=True)
                if count
            },
            weighted=bool(self.store.is_weighted[rows].any()),
        )


def load_fitted(store: TokenStore, folder: Path) -> FittedRows:
    """Map the arrays of a folder into memory."""
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
    return FittedRows(store, arrays, folder)


def fit_rows(
    store: TokenStore, *, context_length: int, overlong: Overlong, question: OverlongQuestion
) -> FittedRows:
    """Fit every row of a store, or find it beside the store, where an earlier process put it."""

    def build(folder: Path) -> None:
        arrays = _fit_all(store, context_length, overlong, question)
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)

    key = f"{context_length}-{overlong.value}-{question.value}"
    try:
        return load_fitted(store, cached(store.path.parent / "fitted", key, build))
    except OSError as error:
        log.info("the rows are fitted in memory: %s cannot be used (%s)", store.path.parent, error)
        return FittedRows(store, _fit_all(store, context_length, overlong, question), None)


def _fit_all(
    store: TokenStore, context_length: int, overlong: Overlong, question: OverlongQuestion
) -> dict[str, np.ndarray]:
    fits = store.lengths <= context_length
    labels = store.num_labels
    long_rows = np.flatnonzero(~fits)
    fitted = [
        fit(
            Shape(
                int(store.lengths[row]),
                store.spans(row),
                store.exchanges(row),
                bool(store.is_passage[row]),
            ),
            context_length=context_length,
            overlong=overlong,
            question=question,
        )
        for row in long_rows.tolist()
    ]
    chunks = [chunk for one in fitted for chunk in one.chunks]
    segments = [s for chunk in chunks for s in chunk.segments if s.length]

    num_documents = (fits & (labels > 0)).astype(np.int64)
    num_documents[long_rows] = [len(one.chunks) for one in fitted]
    row = np.repeat(np.arange(len(store)), num_documents)
    is_whole = fits[row]
    length = store.lengths[row]
    length[~is_whole] = [chunk.length for chunk in chunks]
    num_segments = np.ones(len(row), dtype=np.int64)
    num_segments[~is_whole] = [sum(s.length > 0 for s in chunk.segments) for chunk in chunks]
    of_whole = np.repeat(is_whole, num_segments)
    start = np.zeros(len(of_whole), dtype=np.int64)
    stop = np.repeat(length, num_segments)
    is_supervised = np.ones(len(of_whole), dtype=np.bool_)
    start[~of_whole] = [s.start for s in segments]
    stop[~of_whole] = [s.stop for s in segments]
    is_supervised[~of_whole] = [s.supervised for s in segments]

    lost = np.zeros((len(store), len(REASONS)), dtype=np.int64)
    without = fits & (labels == 0)
    lost[without, REASONS.index("no_labels")] = store.lengths[without]
    supervised = np.where(fits, labels, 0)
    shortened, continued = np.zeros_like(labels), np.zeros_like(labels)
    for number, one in zip(long_rows.tolist(), fitted, strict=True):
        lost[number] = _in_order(one.lost)
        spans = store.spans(number)
        supervised[number] = sum(chunk.num_supervised(spans) for chunk in one.chunks)
        shortened[number], continued[number] = one.shortened, one.continued
    return {
        "row": row,
        "length": length,
        "first_segment": _ends(num_segments),
        "segment_start": start,
        "segment_stop": stop,
        "segment_supervised": is_supervised,
        "first_document": _ends(num_documents),
        "lost": lost,
        "labels": labels,
        "supervised": supervised,
        "shortened": shortened,
        "continued": continued,
    }


def _in_order(lost: Counter[str]) -> list[int]:
    assert set(lost) <= set(REASONS)
    return [lost[reason] for reason in REASONS]


def _ends(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
