"""JSON as RFC 8259 has it, which knows no NaN and no infinity: such a number is null.

A key that has null stands for what was measured and is no finite number; what was not measured has
no key, or an optional value. Python's own reader takes the word NaN; browsers and most others
refuse the whole file.
"""

import dataclasses
import json
import math
from typing import Any


def dumps(value: Any, *, indent: int | None = None) -> str:
    """Return `value` as JSON that every reader takes."""
    return json.dumps(_without_nan(value), indent=indent, allow_nan=False)


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return value


def with_nan(kind: type, raw: dict[str, Any]) -> dict[str, Any]:
    """Return what was read for a dataclass, with NaN for null where its field is a number."""
    numbers = {field.name for field in dataclasses.fields(kind) if field.type is float}
    tables = {field.name for field in dataclasses.fields(kind) if field.type == dict[str, float]}
    found: dict[str, Any] = {
        key: math.nan if v is None and key in numbers else v for key, v in dict(raw).items()
    }
    for name in tables & found.keys():
        if isinstance(found[name], dict):
            found[name] = numbers_of(found[name])
    return found


def numbers_of(table: dict[str, Any]) -> dict[str, Any]:
    """Return a table of numbers with NaN for null."""
    return {key: math.nan if value is None else value for key, value in table.items()}
