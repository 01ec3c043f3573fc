"""Files to records, one at a time: a file of any size takes the memory of one record."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from sft_app.common.errors import DataError
from sft_app.config.locations import data_suffix
from sft_app.data.read.open_file import BROKEN, open_bytes
from sft_app.data.read.record import BadRecord, Record


def read_file(path: Path) -> Iterator[Record | BadRecord]:
    """Yield the records of one file, in order, read as its name says (`locations.DATA_SUFFIXES`).

    Raises DataError for a name with any other ending.
    """
    from sft_app.data.read.json_stream import read_json

    readers = {
        ".json": read_json,
        ".jsonl": _read_lines,
        ".ndjson": _read_lines,
        ".csv": _read_table,
        ".tsv": _read_table,
        ".txt": _read_text,
        ".parquet": _read_parquet,
    }
    reader = readers.get(data_suffix(path))
    if reader is None:
        raise DataError(f"{path}: expected one of {', '.join(readers)}, with or without .gz, .zst")
    try:
        yield from reader(path)
    except BROKEN as error:
        yield BadRecord(
            "broken_compression",
            f"{path}: the compressed file is damaged or cut off ({error}), "
            "expected more records after those that could be read",
        )


def _read_lines(path: Path) -> Iterator[Record | BadRecord]:
    at = 0
    with open_bytes(path) as file:
        for number, line in enumerate(file, start=1):
            start, at = at, at + len(line)
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not line.strip():
                continue
            where = f"{path} line {number}"
            try:
                yield Record(json.loads(line.decode("utf-8")), where)
            except UnicodeDecodeError as error:
                yield wrong_encoding(f"{where}, byte {start + error.start}")
            except json.JSONDecodeError as error:
                if not line.endswith(b"\n"):
                    yield BadRecord(
                        "cut_off",
                        f"{where}: the file ends at byte {at} in the middle of a record, "
                        f"expected the rest of a JSON object",
                    )
                else:
                    yield BadRecord(
                        "broken_json",
                        f"{where}, column {error.colno}: expected a JSON object ({error.msg})",
                    )


def wrong_encoding(where: str) -> BadRecord:
    """Return what stands for a record whose bytes are not UTF-8."""
    return BadRecord("wrong_encoding", f"{where}: expected UTF-8 text, such as iconv makes")


def _read_table(path: Path) -> Iterator[Record | BadRecord]:
    csv.field_size_limit(1 << 30)
    delimiter = "\t" if data_suffix(path) == ".tsv" else ","
    with open_bytes(path) as file:
        text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
        rows = csv.reader(text, delimiter=delimiter)
        header = next(rows, [])
        for row in rows:
            where = f"{path} line {rows.line_num}"
            if not row:
                continue
            if not _is_clean("".join(row)):
                yield wrong_encoding(where)
            elif len(row) != len(header):
                yield BadRecord(
                    "wrong_columns",
                    f"{where}: expected {len(header)} columns ({', '.join(header)}), "
                    f"found {len(row)}",
                )
            else:
                yield Record(dict(zip(header, row, strict=True)), where)


def _is_clean(text: str) -> bool:
    """Whether no byte had to be kept as a lone surrogate."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _read_text(path: Path) -> Iterator[Record | BadRecord]:
    """The whole file is one document."""
    with open_bytes(path) as file:
        try:
            yield Record({"text": file.read().decode("utf-8-sig")}, str(path))
        except UnicodeDecodeError as error:
            yield wrong_encoding(f"{path}, byte {error.start}")


def _read_parquet(path: Path) -> Iterator[Record | BadRecord]:
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                for value in batch.to_pylist():
                    number += 1
                    yield Record(value, f"{path} row {number}")
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        yield BadRecord(
            "broken_parquet",
            f"{path}, after row {number}: expected a complete Parquet file ({reason})",
        )
