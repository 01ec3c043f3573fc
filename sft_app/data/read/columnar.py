"""Columnar files: Parquet, and Arrow as the library datasets writes it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from sft_app.data.read.limits import MAX_RECORD_BYTES, too_large
from sft_app.data.read.record import BadRecord, Record

_ROWS = 256
"""Rows that are in memory together."""

_SPEAKER_KEYS = ("role", "from", "speaker")


def read_parquet(path: Path) -> Iterator[Record | BadRecord]:
    """Yield the rows of a Parquet file, without the nulls that its columns add."""
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_ROWS):
                yield from _records(batch, path, number)
                number += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        yield _broken(path, number, error)


def read_arrow(path: Path) -> Iterator[Record | BadRecord]:
    """Yield the rows of an Arrow file, in its stream format or its random-access format."""
    number = 0
    try:
        with pa.memory_map(str(path)) as source:
            for batch in _batches(source):
                for start in range(0, batch.num_rows, _ROWS):
                    part = batch.slice(start, _ROWS)
                    yield from _records(part, path, number)
                    number += part.num_rows
    except (pa.ArrowException, OSError) as error:
        yield _broken(path, number, error)


def _batches(source: Any) -> Iterator[pa.RecordBatch]:
    if source.read(6) == b"ARROW1":
        reader = pa.ipc.open_file(source)
        for index in range(reader.num_record_batches):
            yield reader.get_batch(index)
    else:
        source.seek(0)
        yield from pa.ipc.open_stream(source)


def _records(batch: pa.RecordBatch, path: Path, before: int) -> Iterator[Record | BadRecord]:
    # Places of a damaged file that lie outside of it would end the process with a signal.
    batch.validate(full=True)
    # Looked at before it is unpacked: a few bytes of a file may stand for gigabytes of text.
    large = batch.nbytes > MAX_RECORD_BYTES
    for index in range(batch.num_rows) if large else ():
        where = f"{path} row {before + index + 1}"
        row = batch.slice(index, 1)
        if row.nbytes > MAX_RECORD_BYTES:
            yield too_large(where)
        else:
            yield Record(without_added_nulls(row.to_pylist()[0]), where)
    for index, value in enumerate(() if large else batch.to_pylist(), start=before + 1):
        yield Record(without_added_nulls(value), f"{path} row {index}")


def _broken(path: Path, number: int, error: Exception) -> BadRecord:
    reason = str(error).splitlines()[0]
    kind = "Parquet" if path.suffix.lower() == ".parquet" else "Arrow"
    return BadRecord(
        f"broken_{kind.lower()}",
        f"{path}, after row {number}: expected a complete {kind} file ({reason})",
    )


def without_added_nulls(record: Any) -> Any:
    """Return a record without the nulls of its nested structures, and with maps as objects.

    A column has every key that any of its rows has, and null where a row has none: the arguments of
    one tool would otherwise stand in the calls of every other. Null stays where it is the value of
    a column, or of a turn's own keys, which the formats look at.
    """
    if isinstance(record, dict):
        return {key: _without_nulls(value) for key, value in record.items()}
    return record


def _without_nulls(value: Any, in_turn: bool = False) -> Any:
    """What a turn holds is no turn, though a call of a tool may have an argument `from`."""
    if isinstance(value, list):
        if value and all(isinstance(element, tuple) for element in value):
            # Arrow gives the entries of a map as pairs, and nothing else as tuples.
            return _without_nulls(dict(value), in_turn)
        return [_without_nulls(element, in_turn) for element in value]
    if isinstance(value, dict):
        is_turn = not in_turn and any(isinstance(value.get(key), str) for key in _SPEAKER_KEYS)
        return {
            key: _without_nulls(element, in_turn or is_turn)
            for key, element in value.items()
            if element is not None or is_turn
        }
    return value
