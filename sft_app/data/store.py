"""Tokenised examples in an Arrow file: written once, then memory-mapped by every process."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa

from sft_app.data.tokenize import TokenizedExample, TokenSpan

_SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        ("span_start", pa.list_(pa.int32())),
        ("span_stop", pa.list_(pa.int32())),
        ("span_weight", pa.list_(pa.float32())),
        ("exchanges", pa.list_(pa.int32())),
        ("system", pa.int32()),
        ("is_passage", pa.bool_()),
        ("conversation", pa.int64()),
        ("key", pa.uint64()),
        ("source", pa.int32()),
    ]
)


def to_batch(
    examples: list[TokenizedExample], conversations: list[int], keys: list[int], sources: list[int]
) -> pa.RecordBatch:
    """Rows of the store; `conversations`, `keys` and `sources` say where each example is from."""
    columns = [
        [e.input_ids for e in examples],
        [[s.start for s in e.spans] for e in examples],
        [[s.stop for s in e.spans] for e in examples],
        [[s.weight for s in e.spans] for e in examples],
        [e.exchanges for e in examples],
        [e.system for e in examples],
        [e.is_passage for e in examples],
        conversations,
        keys,
        sources,
    ]
    arrays = [pa.array(c, type=f.type) for c, f in zip(columns, _SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA)


def write_store(path: Path, batches: Iterable[pa.RecordBatch]) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
        for batch in batches:
            writer.write_batch(batch)


class TokenStore:
    """Random access to the rows of a store. Pickles as its path, and never loads the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        self._ends = np.cumsum([b.num_rows for b in batches], dtype=np.int64)
        self._lists = {
            name: [_list_views(batch.column(name)) for batch in batches]
            for name in ("input_ids", "span_start", "span_stop", "span_weight", "exchanges")
        }
        self.system = self._scalars(batches, "system", np.int64)
        self.is_passage = self._scalars(batches, "is_passage", np.bool_)
        self.conversation = self._scalars(batches, "conversation", np.int64)
        self.key = self._scalars(batches, "key", np.uint64)
        self.source = self._scalars(batches, "source", np.int64)
        self.lengths = np.concatenate(
            [np.diff(offsets) for offsets, _ in self._lists["input_ids"]] or [np.zeros(0, int)]
        ).astype(np.int64)

    def __len__(self) -> int:
        return len(self.lengths)

    def __reduce__(self) -> tuple[type, tuple[Path]]:
        return TokenStore, (self.path,)

    def input_ids(self, row: int) -> np.ndarray:
        """int32 [length], a read-only view of the file."""
        return self._list("input_ids", row)

    def exchanges(self, row: int) -> list[int]:
        return self._list("exchanges", row).tolist()

    def spans(self, row: int) -> list[TokenSpan]:
        starts, stops = self._list("span_start", row), self._list("span_stop", row)
        weights = self._list("span_weight", row)
        return [
            TokenSpan(*span)
            for span in zip(starts.tolist(), stops.tolist(), weights.tolist(), strict=True)
        ]

    def _list(self, name: str, row: int) -> np.ndarray:
        batch = int(np.searchsorted(self._ends, row, side="right"))
        offsets, values = self._lists[name][batch]
        at = row - (int(self._ends[batch - 1]) if batch else 0)
        return values[offsets[at] : offsets[at + 1]]

    @staticmethod
    def _scalars(batches: list[pa.RecordBatch], name: str, dtype: type) -> np.ndarray:
        parts = [b.column(name).to_numpy(zero_copy_only=False) for b in batches]
        return np.concatenate(parts or [np.zeros(0)]).astype(dtype)


def _list_views(column: pa.ListArray) -> tuple[np.ndarray, np.ndarray]:
    return column.offsets.to_numpy(), column.values.to_numpy(zero_copy_only=True)
