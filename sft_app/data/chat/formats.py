"""Records of the usual chat formats, normalised to conversations.

| format | record |
|---|---|
| sharegpt | `conversations`: turns with `from` and `value`; `system`, `tools` beside them |
| messages | `messages`: turns with `role` and `content` (OpenAI); `tools` beside them |
| alpaca | `instruction`, `input` (may be empty), `output`; `system`, `history` beside them |
| prompt_completion | `prompt` and `completion`: texts, or lists of messages |
| text | `text`: a document, all of it learned |

A turn may carry `weight` (its loss weight; 0 = no labels) or `train` (true, false).
"""

import json
from typing import Any

from sft_app.config.schema.data import DataFormat
from sft_app.data.chat.conversation import Conversation, Message, Passage

ROLES = {
    "system": "system",
    "developer": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "bot": "assistant",
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

_TURNS = ("messages", "conversations", "conversation")
_TEMPLATE_EXTRAS = ("tool_call_id", "name", "reasoning_content", "thinking")


class NotThisFormat(ValueError):
    """The record does not look as its format says; the message says what was expected."""


def detect(record: Any) -> DataFormat:
    """The format that a record's keys show. Raises NotThisFormat."""
    if isinstance(record, dict):
        present = {key for key, value in record.items() if value is not None}
        for key in _TURNS:
            turns = record.get(key)
            if isinstance(turns, list):
                first = turns[0] if turns and isinstance(turns[0], dict) else {}
                return DataFormat.messages if "role" in first else DataFormat.sharegpt
        if {"instruction", "output"} <= present:
            return DataFormat.alpaca
        if {"prompt", "completion"} <= present:
            return DataFormat.prompt_completion
        if "text" in present:
            return DataFormat.text
        found = "the keys " + (", ".join(map(str, record)) or "(none)")
    else:
        found = type(record).__name__
    raise NotThisFormat(
        "expected an object with conversations, messages, instruction and output, prompt and "
        f"completion, or text; found {found}"
    )


def normalise(record: Any, format: DataFormat) -> Conversation | Passage:
    """Raises NotThisFormat. `format` must not be auto."""
    if not isinstance(record, dict):
        raise NotThisFormat(f"expected an object, found {type(record).__name__}")
    # Tables have a column for every key that any of their records has.
    record = {key: value for key, value in record.items() if value is not None}
    match format:
        case DataFormat.sharegpt:
            return _conversation(record, "from", "value")
        case DataFormat.messages:
            return _conversation(record, "role", "content")
        case DataFormat.alpaca:
            return _alpaca(record)
        case DataFormat.prompt_completion:
            return _prompt_completion(record)
        case DataFormat.text:
            return Passage("", _text(record, "text"))
        case DataFormat.auto:
            raise AssertionError("detect() comes first")


def _conversation(record: dict[str, Any], speaker: str, text: str) -> Conversation:
    turns = next((record[key] for key in _TURNS if key in record), None)
    if not isinstance(turns, list):
        raise NotThisFormat(f"expected a list under {' or '.join(_TURNS)}")
    messages = [_message(turn, speaker, text) for turn in turns]
    if isinstance(record.get("system"), str) and record["system"].strip():
        messages.insert(0, Message("system", record["system"]))
    return Conversation(messages, _tools(record))


def _message(turn: Any, speaker: str, text: str) -> Message:
    if not isinstance(turn, dict) or not isinstance(turn.get(speaker), str):
        raise NotThisFormat(f"expected turns with text under {speaker} and {text}")
    name = turn[speaker].strip().lower()
    content = _plain_text(turn.get(text), text)
    extra: dict[str, Any] = {k: turn[k] for k in _TEMPLATE_EXTRAS if turn.get(k) is not None}
    calls = turn.get("tool_calls") or ([turn["function_call"]] if turn.get("function_call") else [])
    if name in ("function_call", "tool_call"):
        content, calls = "", _parsed(content)
        calls = calls if isinstance(calls, list) else [calls]
    if calls:
        extra["tool_calls"] = [_tool_call(call) for call in calls]
    return Message(ROLES.get(name, name), content, _weight(turn), extra)


def _plain_text(value: Any, key: str) -> str:
    """Text, nothing (a message of tool calls only), or OpenAI's list of text parts."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(
        isinstance(part, dict) and isinstance(part.get("text"), str) for part in value
    ):
        return "".join(part["text"] for part in value)
    raise NotThisFormat(f"expected text under {key}, found {type(value).__name__} with other parts")


def _tool_call(call: Any) -> dict[str, Any]:
    """As chat templates expect it: arguments are an object, where OpenAI's API sends a string."""
    if not isinstance(call, dict):
        raise NotThisFormat("expected a tool call with name and arguments")
    function = call.get("function", call)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise NotThisFormat("expected a tool call with name and arguments")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        arguments = _parsed(arguments or "{}")
    identity = {"id": call["id"]} if call.get("id") is not None else {}
    function = {"name": function["name"], "arguments": arguments}
    return {"type": "function", **identity, "function": function}


def _tools(record: dict[str, Any]) -> list[dict[str, Any]] | None:
    tools = record.get("tools") or record.get("functions")
    if isinstance(tools, str):
        tools = _parsed(tools) if tools.strip() else None
    if not tools:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise NotThisFormat("expected a list of function schemas under tools")
    return [
        tool if "function" in tool else {"type": "function", "function": tool} for tool in tools
    ]


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise NotThisFormat(f"expected JSON in a tool call or schema ({error.msg})") from error


def _weight(turn: dict[str, Any]) -> float:
    weight = turn.get("weight", turn.get("train"))
    if weight is None:
        return 1.0
    if not isinstance(weight, int | float) or not 0 <= weight < 1e6:
        raise NotThisFormat(f"expected a weight of 0 or more, found {weight!r}")
    return float(weight)


def _alpaca(record: dict[str, Any]) -> Conversation:
    instruction, extra = _text(record, "instruction"), record.get("input", "")
    if not isinstance(extra, str):
        raise NotThisFormat("expected text under input")
    question = f"{instruction}\n\n{extra}" if extra.strip() else instruction
    messages = []
    if isinstance(record.get("system"), str) and record["system"].strip():
        messages.append(Message("system", record["system"]))
    for pair in record.get("history") or []:
        if not isinstance(pair, list) or [type(text) for text in pair] != [str, str]:
            raise NotThisFormat("expected pairs of texts under history")
        messages += [Message("user", pair[0]), Message("assistant", pair[1])]
    messages += [Message("user", question), Message("assistant", _text(record, "output"))]
    return Conversation(messages)


def _prompt_completion(record: dict[str, Any]) -> Conversation | Passage:
    prompt, completion = record.get("prompt"), record.get("completion")
    if isinstance(prompt, list) and isinstance(completion, list):
        asked = [_message(turn, "role", "content") for turn in prompt]
        for message in asked:
            message.weight = 0.0
        answered = [_message(turn, "role", "content") for turn in completion]
        return Conversation(asked + answered, _tools(record))
    return Passage(_text(record, "prompt"), _text(record, "completion"), _weight(record))


def _text(record: dict[str, Any], key: str) -> str:
    if not isinstance(record.get(key), str):
        raise NotThisFormat(f"expected text under {key}")
    return str(record[key])
