"""JSON files of any size: an array of records, or records one after the other."""

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from sft_app.data.read.limits import (
    DECODER,
    MAX_RECORD_BYTES,
    Unreadable,
    check_depth,
    unreadable,
)
from sft_app.data.read.open_file import open_bytes
from sft_app.data.read.record import BadRecord, Record, wrong_encoding

_CHUNK = 1 << 22
_LONGEST_HEAD = 1 << 12
"""Characters before the list of records in a file of one object."""

_SPACE = re.compile(r"[ \t\r\n]*")
_STRING = r'"(?:[^"\\]|\\.)*"'
_FIRST_KEY = re.compile(r'\{\s*"((?:[^"\\]|\\.)*)"\s*:')
_HEAD = re.compile(
    rf"\{{\s*(?:{_STRING}\s*:\s*(?:{_STRING}|[\w.+-]+)\s*,\s*)*"
    r'"(?:data|rows|records|examples|instances|train)"\s*:\s*\[(?=\s*[\{\]])'
)
"""An object that wraps the records: `{"version": "1.0", "data": [`."""


class _Window:
    """The part of a file that is being looked at, as text, with its place in the file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        # Bytes that are not UTF-8 become lone surrogates, so that one bad record spoils no other.
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="surrogateescape")
        self.text = ""
        self.at = 0
        self.ended = False
        self.byte = 0
        """Bytes of the file before `at`."""
        self.line = 1
        """The line that `at` stands in."""

    def more(self) -> None:
        """Forget what lies behind, and read at least as much again as lies ahead."""
        self.text, self.at = self.text[self.at :], 0
        data = self._file.read(max(_CHUNK, len(self.text)))
        self.ended = not data
        self.text += self._decoder.decode(data, final=self.ended)

    def look_ahead(self, characters: int) -> str:
        """Return the text of the window, with this many characters ahead if the file has them."""
        while not self.ended and len(self.text) - self.at < characters:
            self.more()
        return self.text

    def move(self, to: int) -> bool:
        """Go on to this place; return whether what was passed is UTF-8."""
        passed = self.text[self.at : to]
        clean = True
        try:
            raw = passed.encode("utf-8")
        except UnicodeEncodeError:
            clean, raw = False, passed.encode("utf-8", "surrogateescape")
        self.byte += len(raw)
        self.line += raw.count(b"\n")
        self.at = to
        return clean

    def skip_space(self) -> str:
        """The next character that is not white space; empty at the end of the file."""
        while True:
            match = _SPACE.match(self.text, self.at)
            assert match is not None
            self.move(match.end())
            if self.at < len(self.text) or self.ended:
                return self.text[self.at : self.at + 1]
            self.more()


def read_json(path: Path) -> Iterator[Record | BadRecord]:
    """Yield the records of an array `[...]`, of `{"data": [...]}`, or objects after each other.

    Broken records are reported with line and byte; reading goes on at the next object that begins
    with the same key as the records before it.
    """
    with open_bytes(path) as file:
        window = _Window(file)
        if window.skip_space() == "\ufeff":
            window.move(window.at + 1)
        window.skip_space()
        head = _HEAD.match(window.look_ahead(_LONGEST_HEAD), window.at)
        if head is not None:
            window.move(head.end() - 1)
        yield from _records(path, window)
        if head is not None:
            yield from _rest_of_wrapper(path, window)


def _records(path: Path, window: _Window) -> Iterator[Record | BadRecord]:
    """Records up to the end of an array, or, where they stand in none, of the file."""
    is_array = window.skip_space() == "["
    if is_array:
        window.move(window.at + 1)
    number = 0
    while True:
        character = window.skip_space()
        if character == "," and number:
            window.move(window.at + 1)
            character = window.skip_space()
        if character == "" or (character == "]" and is_array):
            break
        number += 1
        result = _next_record(path, window, number)
        yield result
        if isinstance(result, BadRecord) and result.reason == "cut_off":
            return
    if not is_array:
        return
    if character == "":
        yield BadRecord(
            "cut_off", f"{path}: the file ends at byte {window.byte}, expected a closing ]"
        )
        return
    window.move(window.at + 1)
    following = window.skip_space()
    if following == "[":
        yield from _records(path, window)
    elif following and following not in ",}":
        yield BadRecord("trailing_text", f"{_place(path, window)}: expected nothing after the ]")


def _rest_of_wrapper(path: Path, window: _Window) -> Iterator[BadRecord]:
    """What stands behind the list of records in `{"data": [...], ...}` must hold no records."""
    place = _place(path, window)
    window.look_ahead(MAX_RECORD_BYTES)
    rest = window.text[window.at :].lstrip(", \t\r\n")
    try:
        others = json.loads("{" + rest)
    except (ValueError, RecursionError):
        yield BadRecord("trailing_text", f"{place}: expected the end of the object")
        return
    for name in (key for key, value in others.items() if isinstance(value, list) and value):
        yield BadRecord(
            "more_lists",
            f"{place}: expected one list of records, found another under {name}; split the file",
        )


def _place(path: Path, window: _Window) -> str:
    return f"{path} line {window.line}, byte {window.byte}"


def _next_record(path: Path, window: _Window, number: int) -> Record | BadRecord:
    where = f"{path} record {number}, line {window.line}"
    byte = window.byte
    try:
        value, end, error = _decode(window)
    except Unreadable as problem:
        _leave_out(window)
        return BadRecord(problem.reason, f"{where}, byte {byte}: {problem}")
    if error is None:
        brackets = window.text.count("{", window.at, end) + window.text.count("[", window.at, end)
        clean = window.move(end)
        try:
            check_depth(value, brackets)
        except Unreadable as problem:
            return BadRecord(problem.reason, f"{where}, byte {byte}: {problem}")
        return Record(value, where) if clean else wrong_encoding(f"{where}, byte {byte}")
    error_at = window.text[: error.pos].count("\n", window.at) + window.line
    could_be_cut = _is_cut(error, window)
    recovered = _recover(window)
    if could_be_cut and not recovered:
        return BadRecord(
            "cut_off",
            f"{where}, byte {byte}: the file ends at byte {window.byte} in the middle of the "
            "record, expected the rest of it",
        )
    return BadRecord(
        "broken_json",
        f"{where}, byte {byte}: expected a JSON record ({error.msg} in line {error_at}); "
        f"{window.byte - byte} bytes are left out",
    )


_ANY_KEYS = json.JSONDecoder()


def _decode(
    window: _Window, decoder: json.JSONDecoder = DECODER
) -> tuple[Any, int, json.JSONDecodeError | None]:
    """The value at `window.at` and where it ends, reading on for as long as it may be cut."""
    while True:
        try:
            value, end = decoder.raw_decode(window.text, window.at)
            # A number at the very end of the window may go on.
            if end < len(window.text) or window.ended:
                break
        except json.JSONDecodeError as error:
            if not _is_cut(error, window) or window.ended:
                return None, window.at, error
        except (RecursionError, ValueError) as error:
            raise unreadable(error) from error
        if len(window.text) - window.at > MAX_RECORD_BYTES:
            raise _too_large()
        window.more()
    if end - window.at > MAX_RECORD_BYTES:
        raise _too_large()
    return value, end, None


def _too_large() -> Unreadable:
    return Unreadable("too_large", f"expected at most {MAX_RECORD_BYTES:,} bytes")


def _is_cut(error: json.JSONDecodeError, window: _Window) -> bool:
    """Whether the end of the window alone may be the reason."""
    return error.msg.startswith("Unterminated string") or error.pos > len(window.text) - 16


def _leave_out(window: _Window) -> None:
    """Move behind a record that is JSON and cannot be used, or else as `_recover` does."""
    try:
        _, end, _ = _decode(window, _ANY_KEYS)
    except Unreadable:
        end = window.at
    if end > window.at:
        window.move(end)
    else:
        _recover(window)


def _recover(window: _Window) -> bool:
    """Move to the next object that begins as the broken one does, or else to the file's end."""
    head = _FIRST_KEY.match(window.text, window.at)
    while True:
        for following in _FIRST_KEY.finditer(window.text, window.at + 1):
            if head is None or following[1] == head[1]:
                window.move(following.start())
                return True
        if window.ended:
            window.move(len(window.text))
            return False
        if len(window.text) - window.at > MAX_RECORD_BYTES:
            window.move(len(window.text) - _CHUNK)
        window.more()
