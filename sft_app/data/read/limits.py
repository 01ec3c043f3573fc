"""How large, deep and odd a record may be: a file from elsewhere must not take the machine down."""

import json
from itertools import chain
from typing import Any

from sft_app.data.read.record import BadRecord

MAX_RECORD_BYTES = 1 << 26
"""Of one JSON record, CSV row or table row, uncompressed: some 16 million tokens."""

MAX_TEXT_BYTES = 1 << 28
"""Of one .txt file, which is one document."""

MAX_DEPTH = 100
"""Objects and lists inside each other. Python's own parser, and its pickles, give up near 1,000."""


class Unreadable(ValueError):
    """Say why a text is no record that can be used."""

    def __init__(self, reason: str, message: str) -> None:
        """Keep a short name to count by, and what was expected, as part of a sentence."""
        super().__init__(message)
        self.reason = reason


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these keys and values; Python's own parser keeps the last of two values."""
    found = dict(pairs)
    if len(found) < len(pairs):
        for key, value in pairs:
            if value != found[key]:
                raise Unreadable(
                    "doubled_key", f"expected each key once, found two values of {key[:80]!r}"
                )
    return found


DECODER = json.JSONDecoder(object_pairs_hook=_each_key_once)
"""Of JSON records; raises Unreadable for an object that has two different values of one key."""


def parse_record(text: str) -> Any:
    """Return the value of a JSON text.

    Raises json.JSONDecodeError for what is no JSON, and Unreadable for what no record needs.
    """
    try:
        value = DECODER.decode(text)
    except json.JSONDecodeError:
        raise
    except (RecursionError, ValueError) as error:
        raise unreadable(error) from error
    check_depth(value, text.count("{") + text.count("["))
    return value


def unreadable(error: RecursionError | ValueError) -> Unreadable:
    """Translate what Python's parser raises beyond JSONDecodeError."""
    if isinstance(error, Unreadable):
        return error
    if isinstance(error, RecursionError):
        return Unreadable("too_deep", f"expected at most {MAX_DEPTH} levels of nesting")
    return Unreadable("number_too_long", "expected numbers of at most some 4,000 digits")


def check_depth(value: Any, brackets: int) -> None:
    """Raise Unreadable for a value nested deeper than MAX_DEPTH; `brackets` opened make it."""
    if brackets <= MAX_DEPTH:
        return
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH):
        children = chain.from_iterable(v.values() if isinstance(v, dict) else v for v in level)
        level = [child for child in children if isinstance(child, dict | list)]
    if level:
        raise Unreadable("too_deep", f"expected at most {MAX_DEPTH} levels of nesting")


def too_large(where: str, limit: int = MAX_RECORD_BYTES) -> BadRecord:
    """Return what stands for a record of more bytes than `limit`."""
    return BadRecord("too_large", f"{where}: expected at most {limit:,} bytes")
