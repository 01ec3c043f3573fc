"""Files to records, one at a time: a file of any size takes the memory of one record."""

from collections.abc import Iterator
from pathlib import Path

from sft_app.common.errors import DataError
from sft_app.config.locations import COMPRESSED_SUFFIXES, data_suffix
from sft_app.data.read.columnar import read_arrow, read_parquet
from sft_app.data.read.json_lines import read_json_lines
from sft_app.data.read.json_stream import read_json
from sft_app.data.read.limits import MAX_TEXT_BYTES, too_large
from sft_app.data.read.open_file import BrokenCompression, open_bytes
from sft_app.data.read.record import BadRecord, Record, wrong_encoding
from sft_app.data.read.tables import read_table


def read_file(path: Path) -> Iterator[Record | BadRecord]:
    """Yield the records of one file, in order, read as its name says (`locations.DATA_SUFFIXES`).

    Raises DataError for a name with any other ending.
    """
    readers = {
        ".json": read_json,
        ".jsonl": read_json_lines,
        ".ndjson": read_json_lines,
        ".csv": read_table,
        ".tsv": read_table,
        ".txt": _read_text,
        ".parquet": read_parquet,
        ".arrow": read_arrow,
    }
    reader = readers.get(data_suffix(path))
    if reader is None:
        raise DataError(
            f"{path}: expected one of {', '.join(readers)}, with or without "
            f"{', '.join(COMPRESSED_SUFFIXES)}"
        )
    if reader in (read_parquet, read_arrow) and path.suffix.lower() in COMPRESSED_SUFFIXES:
        yield BadRecord(
            "compressed_table",
            f"{path}: expected a {data_suffix(path)} file as it is, which is compressed inside: "
            "unpack it",
        )
        return
    try:
        yield from reader(path)
    except BrokenCompression as error:
        yield BadRecord(
            "broken_compression",
            f"{path}: the compressed file is damaged or cut off ({error}), "
            "expected more records after those that could be read",
        )


def _read_text(path: Path) -> Iterator[Record | BadRecord]:
    """The whole file is one document."""
    with open_bytes(path) as file:
        data = file.read(MAX_TEXT_BYTES + 1)
    if len(data) > MAX_TEXT_BYTES:
        yield too_large(str(path), MAX_TEXT_BYTES)
        return
    try:
        yield Record({"text": data.decode("utf-8-sig")}, str(path))
    except UnicodeDecodeError as error:
        yield wrong_encoding(f"{path}, byte {error.start}")
