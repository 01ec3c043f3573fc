"""JSON Lines: one record a line, however long the lines are."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from sft_app.data.read.json_stream import read_json
from sft_app.data.read.limits import MAX_RECORD_BYTES, Unreadable, parse_record, too_large
from sft_app.data.read.open_file import open_bytes
from sft_app.data.read.record import BadRecord, Record, wrong_encoding

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_json_lines(path: Path) -> Iterator[Record | BadRecord]:
    """Yield the records of a file with one JSON object a line.

    A file that holds an array instead, whatever its name says, is read as one.
    """
    if _begins_with_an_array(path):
        yield from read_json(path)
        return
    with open_bytes(path) as file:
        at = 0
        for number, line in enumerate(_lines(file), start=1):
            start, at = at, at + len(line)
            where = f"{path} line {number}"
            if len(line) > MAX_RECORD_BYTES:
                at += _skip_line(file, line)
                yield too_large(where)
                continue
            line = line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line
            if line.strip():
                yield _record(line, where, start, at)


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    """Yield lines, and of a line that is too long its beginning."""
    while line := file.readline(MAX_RECORD_BYTES + 1):
        yield line


def _skip_line(file: IO[bytes], beginning: bytes) -> int:
    """Read to the end of a line, keeping nothing of it; return the bytes that were read."""
    skipped, last = 0, beginning
    while not last.endswith(b"\n") and (last := file.readline(1 << 20)):
        skipped += len(last)
    return skipped


def _record(line: bytes, where: str, start: int, end: int) -> Record | BadRecord:
    try:
        return Record(parse_record(line.decode("utf-8")), where)
    except UnicodeDecodeError as error:
        return wrong_encoding(f"{where}, byte {start + error.start}")
    except json.JSONDecodeError as error:
        if not line.endswith(b"\n"):
            return BadRecord(
                "cut_off",
                f"{where}: the file ends at byte {end} in the middle of a record, "
                "expected the rest of a JSON object",
            )
        return BadRecord(
            "broken_json",
            f"{where}, column {error.colno}: expected a JSON object ({error.msg})",
        )
    except Unreadable as error:
        return BadRecord(error.reason, f"{where}: {error}")


def _begins_with_an_array(path: Path) -> bool:
    with open_bytes(path) as file:
        beginning = file.read(1 << 12).removeprefix(_BYTE_ORDER_MARK).lstrip()
    return beginning.startswith(b"[")
