"""Which settings differ between the cells of a sweep, and which merely follow another one."""

import json
import math
from dataclasses import dataclass, field
from typing import Any

from sft_app.config.config_hash import can_change_the_outcome
from sft_app.reporting.sweep.cells import CellRecord

# Other settings are derived from these: conf/ interpolates context_length, and a group brings its
# whole file. What is a function of one of them is listed under it.
LEADING = ("model.name_or_path", "data.train", "context_length", "rope.method", "rope")
ABSENT = "—"


@dataclass(kw_only=True)
class Difference:
    """Holds a setting in which cells differ."""

    key: str
    values: list[str]
    """Each value once, in order."""
    followers: list[str] = field(default_factory=list)
    """Settings that change with this one, and only with it."""


def differences(cells: list[CellRecord]) -> list[Difference]:
    """Return the settings that differ: leading ones first, then by name, the seed last."""
    differing = {
        key: values
        for key in sorted({key for cell in cells for key in cell.settings})
        if can_change_the_outcome(key) and len(values := _distinct(cells, key)) > 1
    }
    found = {key: Difference(key=key, values=values) for key, values in differing.items()}
    for key in differing:
        leader = next(
            (lead for lead in _leaders(differing, key) if _follows(cells, key, lead)), None
        )
        if leader is not None:
            found[leader].followers.append(key)
            del found[key]
    return sorted(found.values(), key=lambda difference: _order(difference.key))


def setting_text(cell: CellRecord, key: str) -> str | None:
    """Return the value as text; None while the job has not written it yet."""
    if key not in cell.settings:
        return ABSENT if cell.settings_complete else None
    return value_text(cell.settings[key])


def value_text(value: Any) -> str:
    """Return a setting's value as text; two values never have the same one."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value or math.isnan(value) else repr(value)
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        return str(value)


def short_key(key: str) -> str:
    """Return a key as it is spoken of: `trainer.learning_rate` is learning_rate."""
    name = key.rsplit(".", 1)[-1]
    return key if name in ("method", "factor", "name_or_path", "train", "eval", "name") else name


def _leaders(differing: dict[str, list[str]], key: str) -> list[str]:
    if key == "seed" or key in LEADING:
        return []
    return [lead for lead in LEADING if lead in differing]


def _follows(cells: list[CellRecord], key: str, leader: str) -> bool:
    """Whether `leader` decides `key`: one value of the one for each value of the other."""
    seen: dict[str, str] = {}
    for cell in cells:
        cause, effect = setting_text(cell, leader), setting_text(cell, key)
        if cause is None or effect is None:
            continue
        if seen.setdefault(cause, effect) != effect:
            return False
    return True


def _distinct(cells: list[CellRecord], key: str) -> list[str]:
    texts = {text for cell in cells if (text := setting_text(cell, key)) is not None}
    return sorted(texts, key=natural)


def natural(text: str) -> tuple[bool, float, str]:
    """Return a sort key: numbers by size, before words by letter."""
    try:
        return (False, float(text), "")
    except ValueError:
        return (True, 0.0, text)


def _order(key: str) -> tuple[int, str]:
    if key in LEADING:
        return (LEADING.index(key), key)
    return (len(LEADING) + (key == "seed"), key)
