"""JSON files of any size: an array of records, or records one after the other."""

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from sft_app.data.read.open_file import BROKEN, open_bytes
from sft_app.data.read.read_files import wrong_encoding
from sft_app.data.read.record import BadRecord, Record

_CHUNK = 1 << 22
_LARGEST_RECORD = 1 << 28
"""Characters. A quote that is never closed would otherwise read the whole file into memory."""

_SPACE = re.compile(r"[ \t\r\n]*")
_FIRST_KEY = re.compile(r'\{\s*"((?:[^"\\]|\\.)*)"\s*:')


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

    def move(self, to: int) -> bool:
        """Whether what was passed is UTF-8."""
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
    """Yield the records of an array `[...]`, or objects that follow each other.

    Broken records are reported with line and byte; reading goes on at the next object that begins
    with the same key as the records before it.
    """
    with open_bytes(path) as file:
        try:
            yield from _records(path, _Window(file))
        except BROKEN:
            raise
        except RecursionError:
            yield BadRecord("broken_json", f"{path}: expected less deeply nested JSON")


def _records(path: Path, window: _Window) -> Iterator[Record | BadRecord]:
    if window.skip_space() == "\ufeff":
        window.move(window.at + 1)
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
    if is_array and character == "":
        yield BadRecord(
            "cut_off", f"{path}: the file ends at byte {window.byte}, expected a closing ]"
        )
        return
    if is_array:
        window.move(window.at + 1)
        if window.skip_space():
            yield BadRecord(
                "trailing_text",
                f"{path} line {window.line}, byte {window.byte}: expected nothing after the "
                "closing ]",
            )


def _next_record(path: Path, window: _Window, number: int) -> Record | BadRecord:
    where = f"{path} record {number}, line {window.line}"
    byte = window.byte
    value, end, error = _decode(window)
    if error is None:
        clean = window.move(end)
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


_decoder = json.JSONDecoder()


def _decode(window: _Window) -> tuple[Any, int, json.JSONDecodeError | None]:
    """The value at `window.at` and where it ends, reading on for as long as it may be cut."""
    while True:
        try:
            value, end = _decoder.raw_decode(window.text, window.at)
            # A number at the very end of the window may go on.
            if end < len(window.text) or window.ended:
                return value, end, None
        except json.JSONDecodeError as error:
            if not _is_cut(error, window) or window.ended:
                return None, window.at, error
            if len(window.text) - window.at > _LARGEST_RECORD:
                return None, window.at, error
        window.more()


def _is_cut(error: json.JSONDecodeError, window: _Window) -> bool:
    """Whether the end of the window alone may be the reason."""
    return error.msg.startswith("Unterminated string") or error.pos > len(window.text) - 16


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
        if len(window.text) - window.at > _LARGEST_RECORD:
            window.move(len(window.text) - _CHUNK)
        window.more()
