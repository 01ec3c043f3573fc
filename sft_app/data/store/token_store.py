"""Tokenised examples in an Arrow file: written once, then memory-mapped by every process."""

from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sft_app.data.chat.spans import Exchange
from sft_app.data.chat.tokenize import TokenizedExample, TokenSpan
from sft_app.data.read.record import Origin

_SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        ("span_start", pa.list_(pa.int32())),
        ("span_stop", pa.list_(pa.int32())),
        ("span_weight", pa.list_(pa.float32())),
        ("exchange_start", pa.list_(pa.int32())),
        ("exchange_question_stop", pa.list_(pa.int32())),
        ("exchange_stop", pa.list_(pa.int32())),
        ("is_passage", pa.bool_()),
        ("conversation", pa.int64()),
        ("key", pa.uint64()),
        ("source", pa.int32()),
        ("file", pa.int32()),
        ("place", pa.string()),
    ]
)


_SPANS = ("span_start", "span_stop", "span_weight")
_EXCHANGES = ("exchange_start", "exchange_question_stop", "exchange_stop")


def to_batch(examples: list[TokenizedExample], origins: list[Origin]) -> pa.RecordBatch:
    """Return rows of the store, one for each example, in order."""
    spans = [example.spans for example in examples]
    exchanges = [example.exchanges for example in examples]
    columns = [
        _list_column([e.input_ids for e in examples], np.int32),
        _list_column([[s.start for s in row] for row in spans], np.int32),
        _list_column([[s.stop for s in row] for row in spans], np.int32),
        _list_column([[s.weight for s in row] for row in spans], np.float32),
        _list_column([[e.start for e in row] for row in exchanges], np.int32),
        _list_column([[e.question_stop for e in row] for row in exchanges], np.int32),
        _list_column([[e.stop for e in row] for row in exchanges], np.int32),
        pa.array([e.is_passage for e in examples], pa.bool_()),
        pa.array([o.conversation for o in origins], pa.int64()),
        pa.array([o.key for o in origins], pa.uint64()),
        pa.array([o.source for o in origins], pa.int32()),
        pa.array([o.file for o in origins], pa.int32()),
        pa.array([o.place.encode(errors="replace") for o in origins], pa.string()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=_SCHEMA)


def _list_column(rows: list[list[Any]], dtype: type) -> pa.ListArray:
    """Through numpy, which reads Python numbers several times faster than Arrow does."""
    offsets = np.zeros(len(rows) + 1, dtype=np.int32)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    values: np.ndarray = np.fromiter(chain.from_iterable(rows), dtype, count=int(offsets[-1]))
    return pa.ListArray.from_arrays(_as_arrow(offsets), _as_arrow(values))


def _as_arrow(values: np.ndarray) -> pa.Array:
    """As they are; `pa.array` would import pandas, to ask whether they are a series of it."""
    kind = pa.from_numpy_dtype(values.dtype)
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


def write_store(path: Path, batches: Iterable[pa.RecordBatch]) -> None:
    """Write rows to the Arrow file at `path`, batch by batch."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
        for batch in batches:
            writer.write_batch(batch)


class TokenStore:
    """Give random access to the rows of a store. Pickles as its path, and never loads the file."""

    def __init__(self, path: Path, names: list[list[str]] | None = None) -> None:
        """Map the Arrow file at `path` into memory.

        `names`: of each source, its files as they are called now, or the dataset of the hub. The
        store may have been made when equal files stood elsewhere.
        """
        self.path = path
        self.names = names or []
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        self._ends = np.cumsum([b.num_rows for b in batches], dtype=np.int64)
        self._lists = {
            name: [_list_views(batch.column(name)) for batch in batches]
            for name in ("input_ids", *_SPANS, *_EXCHANGES)
        }
        self.is_passage = self._scalars(batches, "is_passage", np.bool_)
        self.conversation = self._scalars(batches, "conversation", np.int64)
        self.key = self._scalars(batches, "key", np.uint64)
        self.source = self._scalars(batches, "source", np.int64)
        self._file = self._scalars(batches, "file", np.int64)
        self._places = [batch.column("place") for batch in batches]
        self.lengths = np.concatenate(
            [np.diff(offsets) for offsets, _ in self._lists["input_ids"]] or [np.zeros(0, int)]
        ).astype(np.int64)

        self.num_labels, self.is_weighted = self._about_labels()
        """int64 [R]: tokens that are supervised, but for a row's first, which nothing predicts; and
        bool [R]: whether some of them have another weight than 1."""

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.lengths)

    def __reduce__(self) -> tuple[type, tuple[Path, list[list[str]]]]:
        """Pickle the path, and what the files are called."""
        return TokenStore, (self.path, self.names)

    def input_ids(self, row: int) -> np.ndarray:
        """Return the tokens of a row, int32 [length]: a read-only view of the file."""
        return self._list("input_ids", row)

    def record_of(self, row: int) -> str:
        """Say from which record a row was made: its file, and where in it."""
        batch, at = self._batch_of(row)
        place = self._places[batch][at].as_py()
        source, file = int(self.source[row]), int(self._file[row])
        return f"{self.names[source][file]} {place}" if self.names else place

    def exchanges(self, row: int) -> list[Exchange]:
        """Return the exchanges of a row, in tokens."""
        columns = [self._list(name, row).tolist() for name in _EXCHANGES]
        return [Exchange(*places) for places in zip(*columns, strict=True)]

    def spans(self, row: int) -> list[TokenSpan]:
        """Return the supervised spans of a row, in tokens."""
        starts, stops = self._list("span_start", row), self._list("span_stop", row)
        weights = self._list("span_weight", row)
        return [
            TokenSpan(*span)
            for span in zip(starts.tolist(), stops.tolist(), weights.tolist(), strict=True)
        ]

    def _list(self, name: str, row: int) -> np.ndarray:
        batch, at = self._batch_of(row)
        offsets, values = self._lists[name][batch]
        return values[offsets[at] : offsets[at + 1]]

    def _batch_of(self, row: int) -> tuple[int, int]:
        """Return the batch that holds a row, and its number in it."""
        batch = int(np.searchsorted(self._ends, row, side="right"))
        return batch, row - (int(self._ends[batch - 1]) if batch else 0)

    def _about_labels(self) -> tuple[np.ndarray, np.ndarray]:
        counts, weighted = [np.zeros(0, np.int64)], [np.zeros(0, np.bool_)]
        for columns in zip(*(self._lists[name] for name in _SPANS), strict=True):
            (offsets, starts), (_, stops), (_, weights) = columns
            used = slice(int(offsets[0]), int(offsets[-1]))
            sizes = np.maximum(stops[used] - np.maximum(starts[used], 1), 0)
            counts.append(_sums(sizes, offsets - offsets[0]))
            weighted.append(_sums((weights[used] != 1), offsets - offsets[0]) > 0)
        return np.concatenate(counts), np.concatenate(weighted)

    @staticmethod
    def _scalars(batches: list[pa.RecordBatch], name: str, dtype: type) -> np.ndarray:
        parts = [b.column(name).to_numpy(zero_copy_only=False) for b in batches]
        return np.concatenate(parts or [np.zeros(0)]).astype(dtype)


def _list_views(column: pa.ListArray) -> tuple[np.ndarray, np.ndarray]:
    return column.offsets.to_numpy(), column.values.to_numpy(zero_copy_only=True)


def _sums(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The sum of each list, int64 [lists]."""
    ends = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
    return ends[offsets[1:]] - ends[offsets[:-1]]
