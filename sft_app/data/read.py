"""Files to records, one at a time: a file of any size takes the memory of one record."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import ijson

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Record:
    value: Any
    where: str
    """For people: file and record, line or row."""


@dataclass(frozen=True, slots=True)
class BadRecord:
    """What stands where a record should be."""

    reason: str
    """A short name to count by."""
    message: str
    """A sentence: file, line or byte, what was expected."""


def read_file(path: Path) -> Iterator[Record | BadRecord]:
    """The records of one file, in order."""
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        yield from _read_lines(path)
    else:
        yield from _read_array(path)


def _read_lines(path: Path) -> Iterator[Record | BadRecord]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.isspace():
                continue
            where = f"{path} line {number}"
            try:
                yield Record(json.loads(line.decode("utf-8")), where)
            except UnicodeDecodeError as error:
                yield BadRecord("wrong_encoding", f"{where}: not UTF-8 ({error.reason})")
            except json.JSONDecodeError as error:
                yield BadRecord(
                    "broken_json", f"{where}, column {error.colno}: not JSON ({error.msg})"
                )


def _read_array(path: Path) -> Iterator[Record | BadRecord]:
    number = 0
    with path.open("rb") as file:
        try:
            for value in ijson.items(file, "item", buf_size=_CHUNK, use_float=True):
                number += 1
                yield Record(value, f"{path} record {number}")
        except ijson.IncompleteJSONError as error:
            yield BadRecord(*_array_failure(path, file, number + 1, str(error)))


def _array_failure(path: Path, file: IO[bytes], number: int, error: str) -> tuple[str, str]:
    size = path.stat().st_size
    if file.tell() == size and "EOF" in error.splitlines()[0]:
        return "cut_off", (
            f"{path}: the file ends at byte {size} in the middle of record {number}, "
            "expected the rest of the record and a closing ]"
        )
    return "broken_json", f"{path} record {number}: {error.splitlines()[0]}"
