"""Tables of text: .csv and .tsv."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from sft_app.config.locations import data_suffix
from sft_app.data.read.limits import MAX_RECORD_BYTES, too_large
from sft_app.data.read.open_file import open_bytes
from sft_app.data.read.record import BadRecord, Record, wrong_encoding


def read_table(path: Path) -> Iterator[Record | BadRecord]:
    """Yield the rows of a table as records of texts, named by its first row.

    Quotes must be closed, and stand around a whole cell: a lenient reader takes all rows behind an
    open quote for one cell.
    """
    csv.field_size_limit(MAX_RECORD_BYTES)
    delimiter = "\t" if data_suffix(path) == ".tsv" else ","
    with open_bytes(path) as file:
        text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
        rows = csv.reader(_lines(text), delimiter=delimiter, strict=True)
        header: list[str] | None = None
        while True:
            where = f"{path} line {rows.line_num + 1}"
            try:
                row = next(rows, None)
            except csv.Error as error:
                yield BadRecord(
                    "broken_table",
                    f"{where}: expected a row of the table, its quotes around whole cells "
                    f"({error})",
                )
                continue
            if row is None:
                return
            if header is None:
                header = row
                twice = sorted({name for name in row if name and row.count(name) > 1})
                if twice:
                    yield BadRecord(
                        "wrong_columns",
                        f"{where}: expected columns of different names, found {twice[0]!r} more "
                        "than once; none of its rows is read",
                    )
                    return
            elif row:
                yield _record(row, header, f"{path} line {rows.line_num}")


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    """Yield lines, and of those that are too long a beginning that is too long as well."""
    while line := text.readline(MAX_RECORD_BYTES + 2):
        yield line
        while len(line) > MAX_RECORD_BYTES and not line.endswith("\n"):
            line = text.readline(MAX_RECORD_BYTES + 2)


def _record(row: list[str], header: list[str], where: str) -> Record | BadRecord:
    if sum(map(len, row)) > MAX_RECORD_BYTES:
        return too_large(where)
    if not _is_clean("".join(row)):
        return wrong_encoding(where)
    if len(row) != len(header):
        return BadRecord(
            "wrong_columns",
            f"{where}: expected {len(header)} columns ({', '.join(header)}), found {len(row)}",
        )
    return Record(dict(zip(header, row, strict=True)), where)


def _is_clean(text: str) -> bool:
    """Whether no byte had to be kept as a lone surrogate."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
