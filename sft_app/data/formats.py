"""Records of the usual chat formats, normalised to conversations."""

from typing import Any

from sft_app.config.data import DataFormat
from sft_app.data.conversation import Conversation, Message, Passage

ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}


class NotThisFormat(ValueError):
    """The record does not look as its format says; the message says what was expected."""


def detect(record: Any) -> DataFormat | None:
    """The format that a record's keys show, or None."""
    if not isinstance(record, dict):
        return None
    if "conversations" in record:
        return DataFormat.sharegpt
    return None


def normalise(record: Any, format: DataFormat) -> Conversation | Passage:
    """Raises NotThisFormat."""
    if not isinstance(record, dict):
        raise NotThisFormat(f"expected an object, found {type(record).__name__}")
    return _sharegpt(record)


def _sharegpt(record: dict[str, Any]) -> Conversation:
    turns = record.get("conversations")
    if not isinstance(turns, list):
        raise NotThisFormat("expected a list under the key conversations")
    messages = []
    for turn in turns:
        if not isinstance(turn, dict) or "from" not in turn or "value" not in turn:
            raise NotThisFormat("expected turns with the keys from and value")
        if not isinstance(turn["from"], str) or not isinstance(turn["value"], str):
            raise NotThisFormat("expected text under from and value of each turn")
        role = turn["from"].strip().lower()
        messages.append(Message(ROLES.get(role, role), turn["value"]))
    return Conversation(messages)
