"""What readers give: records, what stands where a record should be, and where each comes from."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Record:
    """Hold one record of a file or dataset as it was found, in no particular format."""

    value: Any
    where: str
    """For people: file and record, line or row."""


@dataclass(frozen=True, slots=True)
class BadRecord:
    """Stand where a record should be and cannot be read."""

    reason: str
    """A short name to count by."""
    message: str
    """A sentence: file, line or byte, what was expected."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Say where an example comes from."""

    conversation: int
    """Its number among the conversations read; several examples may come from one."""
    key: int
    """`conversation.content_key`."""
    source: int
    """Its number in `data.train`."""
    file: int = 0
    """Its number among the files of the source; 0 for a dataset of the hub."""
    place: str = ""
    """Where in the file, for people: `line 12`, with the record's own id where it has one."""


def place_in_file(record: Record, name: str) -> str:
    """Return where in the file of that name a record stands."""
    place = record.where.removeprefix(name).strip()
    own = record.value.get("id") if isinstance(record.value, dict) else None
    return f"{place} (id {str(own)[:80]})" if isinstance(own, str | int) else place


def wrong_encoding(where: str) -> BadRecord:
    """Return what stands for a record whose bytes are not UTF-8."""
    return BadRecord("wrong_encoding", f"{where}: expected UTF-8 text, such as iconv makes")
