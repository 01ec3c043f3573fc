"""Nested values of any shape as a tree of labels and texts, for definition lists on a page.

plan.json's keys belong to those who decide; this shows whatever they wrote.
"""

from dataclasses import dataclass, field
from typing import Any

from sft_app.reporting.page import format_values

MOST_ITEMS = 24
DEEPEST = 8
LONGEST_TEXT = 2000


@dataclass(kw_only=True)
class Entry:
    """Holds a label with a text, or with entries below it."""

    label: str
    text: str = ""
    children: list["Entry"] = field(default_factory=list)
    hint: str = ""
    """The exact value, where the text has rounded it."""


def describe(label: str, value: Any, depth: int = 0) -> Entry:
    """Turn a value of any shape into an entry; long lists and deep trees are cut, and say so."""
    title = label.replace("_", " ")
    if _is_number(value):
        title = title.removesuffix(" bytes").removesuffix(" seconds") or title
    if depth >= DEEPEST and isinstance(value, dict | list):
        return Entry(label=title, text="…")
    if isinstance(value, dict) and value:
        children = [describe(str(key), item, depth + 1) for key, item in value.items()]
        return Entry(label=title, children=children)
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        children = [
            describe(f"{index}", item, depth + 1)
            for index, item in enumerate(value[:MOST_ITEMS], start=1)
        ]
        if len(value) > MOST_ITEMS:
            children.append(Entry(label="…", text=f"and {len(value) - MOST_ITEMS:,} more"))
        return Entry(label=title, children=children)
    text = _text(label, value)
    exact = str(value) if _is_number(value) else ""
    return Entry(label=title, text=text, hint=exact if exact != text else "")


def remarks(plan: dict[str, Any]) -> list[str]:
    """Collect the reasons and warnings of a plan, wherever they stand in it."""
    found: list[str] = []
    for key, value in plan.items():
        if isinstance(value, dict):
            found += remarks(value)
        elif isinstance(value, str) and value and (key == "reason" or key.endswith("_reason")):
            subject = key.removesuffix("reason").strip("_").replace("_", " ")
            found.append(f"{subject}: {value}" if subject else value)
        elif isinstance(value, list) and key == "warnings":
            found += [str(warning) for warning in value]
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(key: str, value: Any) -> str:
    if isinstance(value, dict | list):
        shown = ", ".join(_text(key, item) for item in list(value)[:MOST_ITEMS])
        more = f", … and {len(value) - MOST_ITEMS:,} more" if len(value) > MOST_ITEMS else ""
        return shown + more or "none"
    if value is None:
        return format_values.NOT_MEASURED
    if isinstance(value, bool):
        return "yes" if value else "no"
    if _is_number(value):
        return _number(key, value)
    text = str(value)
    return text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + "…"


def _number(key: str, value: int | float) -> str:
    if key.endswith("bytes"):
        return format_values.byte_size(value)
    if key.endswith("seconds"):
        return format_values.duration(value)
    if isinstance(value, int):
        named = key.endswith(("_id", "_ids", "seed", "version"))
        return str(value) if named else f"{value:,}"
    return f"{value:,.6g}"
