"""Under which names records hold what: the settings `data.columns` and `data.roles`."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

ROLES = {
    "system": "system",
    "developer": "system",
    "human": "user",
    "user": "user",
    "prompter": "user",
    "patient": "user",
    "customer": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "ai": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "agent": "assistant",
    "doctor": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "claude": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "function_response": "tool",
    "tool_response": "tool",
}
"""Names of speakers, in lower case, and the roles that chat templates know."""

CALLERS = ("function_call", "tool_call")
"""Speakers whose text is a tool call, in JSON."""


_MOST_NAMES = 1000
"""Of keys that are not read: data whose keys are data have as many as records."""


class NotThisFormat(ValueError):
    """The record does not look as its format says; the message says what was expected."""

    def __init__(self, message: str, reason: str = "not_this_format") -> None:
        """Keep a short name to count by beside the message."""
        super().__init__(message)
        self.reason = reason


def at_path(holder: Any, path: str) -> Any:
    """Return what stands under a name, or inside of it: `payload.turns`, `answers.text.0`.

    A name that has dots of its own comes before a path. None where nothing stands.
    """
    if isinstance(holder, dict) and path in holder:
        return holder[path]
    first, dot, rest = path.partition(".")
    while dot:
        inside = _member(holder, first)
        if inside is not None and (found := at_path(inside, rest)) is not None:
            return found
        more, dot, rest = rest.partition(".")
        first = f"{first}.{more}"
    return _member(holder, first)


def _member(holder: Any, name: str) -> Any:
    if isinstance(holder, dict):
        return holder.get(name)
    if isinstance(holder, list) and name.isdecimal() and int(name) < len(holder):
        return holder[int(name)]
    return None


@dataclass(frozen=True)
class FieldNames:
    """Hold what the user says about names; whatever they leave out is found by itself."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """Our names of fields, and the keys under which records or turns hold them; what is inside of
    another field has a path, `payload.turns`, and a place in a list its number, `answers.0`."""
    roles: Mapping[str, str] = field(default_factory=dict)
    """Names of speakers, and system, user, assistant or tool."""
    found: set[str] = field(default_factory=set, compare=False, repr=False)
    """Of `columns`, our names of those that some record or turn had."""
    not_read: Counter[str] = field(default_factory=Counter, compare=False, repr=False)
    """Keys from which nothing was read, those of turns as `turns.KEY`, and how often."""

    def rename(self, holder: dict[str, Any]) -> dict[str, Any]:
        """Return a record or turn with its fields under our names, and without null columns."""
        if not self.columns:
            return holder
        taken = set(self.columns) | set(self.columns.values())
        renamed = {key: value for key, value in holder.items() if key not in taken}
        for ours, theirs in self.columns.items():
            found = at_path(holder, theirs)
            if found is not None or theirs in holder:
                renamed[ours] = found
                self.found.add(ours)
        return renamed

    def pass_over(self, holder: dict[str, Any], read: Collection[str], prefix: str = "") -> None:
        """Note the keys of a record or turn that hold something, and that are not among `read`."""
        paths = {path.partition(".")[0] for path in self.columns.values()}
        for key, value in holder.items():
            if key in read or key in paths or value in (None, "", [], {}):
                continue
            name = f"{prefix}{key}"
            if name in self.not_read or len(self.not_read) < _MOST_NAMES:
                self.not_read[name] += 1

    def not_found(self) -> list[str]:
        """Return the keys of `columns` that nothing had so far, with our names for them."""
        missing = {ours: key for ours, key in self.columns.items() if ours not in self.found}
        return [f"{key} ({ours})" for ours, key in missing.items()]

    def role(self, speaker: str, where: str) -> str:
        """Return the role of a speaker; raise NotThisFormat for one that is not known."""
        for name in (speaker, speaker.strip().lower()):
            role = self.roles.get(name) or ROLES.get(name)
            if role is not None:
                return role
        raise NotThisFormat(
            f"{where} is spoken by {speaker!r}, which is no known role: name it with "
            f"'data.roles={{{speaker}: user}}' (or system, assistant, tool)",
            "unknown_role",
        )
