"""Tool schemas and tool calls, as chat templates expect them."""

import json
from typing import Any

from sft_app.data.parse.field_names import NotThisFormat
from sft_app.data.read.limits import Unreadable, parse_record

_MAY_BE_NULL = ("default", "const")
"""Keys of JSON Schema whose value may be null; elsewhere null stands for what is not there."""


def read_tools(record: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Return the schemas of the functions that a record describes; None where it has none."""
    tools = record.get("tools") or record.get("functions")
    if isinstance(tools, str):
        tools = parse_json(tools) if tools.strip() else None
    if isinstance(tools, dict):
        tools = [tools]
    if not tools:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise NotThisFormat("expected a list of function schemas under tools")
    tools = [_without_nulls(tool) for tool in tools]
    return [
        tool if "function" in tool else {"type": "function", "function": tool} for tool in tools
    ]


def read_calls(turn: dict[str, Any]) -> list[Any]:
    """Return the tool calls of a turn as they are written there."""
    calls = turn.get("tool_calls") or turn.get("function_call") or []
    if isinstance(calls, str):
        calls = parse_json(calls)
    return calls if isinstance(calls, list) else [calls]


def tool_call(call: Any, tools: list[dict[str, Any]] | None) -> dict[str, Any]:
    """Return a call with arguments as an object, where OpenAI's API sends a string.

    An argument that is null, and that the schema of its tool does not know, is no argument: it is
    what a table of calls of several tools has in the place of another tool's arguments.
    """
    if not isinstance(call, dict):
        raise NotThisFormat("expected a tool call with name and arguments")
    function = call.get("function") or call
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise NotThisFormat("expected a tool call with name and arguments")
    arguments = function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str):
        arguments = parse_json(arguments or "{}")
    if arguments is None:
        arguments = {}
    if isinstance(arguments, dict) and None in arguments.values():
        known = _parameters(function["name"], tools)
        arguments = {
            name: value
            for name, value in arguments.items()
            if value is not None or known is None or name in known
        }
    identity = {"id": call["id"]} if call.get("id") is not None else {}
    return {
        "type": "function",
        **identity,
        "function": {"name": function["name"], "arguments": arguments},
    }


def parse_json(text: str) -> Any:
    """Return the value of a JSON text in a record; raise NotThisFormat where it is none."""
    try:
        return parse_record(text)
    except json.JSONDecodeError as error:
        raise NotThisFormat(f"expected JSON in a tool call or schema ({error.msg})") from error
    except Unreadable as error:
        raise NotThisFormat(f"{error} in a tool call or schema", error.reason) from error


def _parameters(name: str, tools: list[dict[str, Any]] | None) -> set[str] | None:
    """The parameters of a tool; None where no schema says."""
    for tool in tools or []:
        function = tool.get("function")
        if isinstance(function, dict) and function.get("name") == name:
            parameters = function.get("parameters")
            properties = parameters.get("properties") if isinstance(parameters, dict) else None
            return set(properties) if isinstance(properties, dict) else None
    return None


def _without_nulls(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_nulls(element) for element in value]
    if isinstance(value, dict):
        return {
            key: _without_nulls(element)
            for key, element in value.items()
            if element is not None or key in _MAY_BE_NULL
        }
    return value
