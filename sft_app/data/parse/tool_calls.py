"""Tool schemas and tool calls, as chat templates expect them."""

import json
import re
from typing import Any

from sft_app.data.parse.field_names import NotThisFormat
from sft_app.data.read.limits import Unreadable, parse_record

_MAY_BE_NULL = ("default", "const")
"""Keys of JSON Schema whose value may be null; elsewhere null stands for what is not there."""

_ARGUMENTS = ("arguments", "parameters", "args", "input", "kwargs")
"""Where OpenAI, Llama, LangChain and Anthropic put what a function is called with."""

_ABOUT_A_CALL = ("name", "type", "id", "index", "function")
"""What else a call may have, and lose nothing by."""

_PYTHON = re.compile(r"\s*[\[{][\[{\s]*'")
"""Beginning of what `str` makes of a list or a dict."""


def read_tools(record: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Return the schemas of the functions that a record describes; None where it has none."""
    found = {key: record[key] for key in ("tools", "functions") if record.get(key)}
    if len(found) == 2 and found["tools"] != found["functions"]:
        raise NotThisFormat("expected schemas under tools or functions, and found them under both")
    key, tools = next(iter(found.items()), ("tools", None))
    if isinstance(tools, str):
        tools = parse_json(tools, f"under {key}") if tools.strip() else None
    if isinstance(tools, dict):
        tools = [tools]
    if not tools:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise NotThisFormat(f"expected a list of function schemas under {key}")
    return [_tool(_without_nulls(tool), key) for tool in tools]


def _tool(tool: dict[str, Any], key: str) -> dict[str, Any]:
    function = tool.get("function", tool)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise NotThisFormat(
            f"expected function schemas with a name under {key}, found one that has "
            f"{', '.join(map(str, tool)) or 'nothing'}"
        )
    if "input_schema" in function and "parameters" not in function:
        function = dict(function)
        function["parameters"] = function.pop("input_schema")
    outside = tool if "function" in tool else {"type": "function"}
    return {**outside, "function": function}


def read_calls(turn: dict[str, Any], where: str) -> list[Any]:
    """Return the tool calls of a turn as they are written there."""
    found = {key: turn[key] for key in ("tool_calls", "function_call") if turn.get(key)}
    if len(found) == 2:
        raise NotThisFormat(f"{where} has both tool_calls and function_call: keep one")
    key, calls = next(iter(found.items()), ("tool_calls", []))
    if isinstance(calls, str):
        calls = parse_json(calls, f"under {key} of {where}") if calls.strip() else []
    return calls if isinstance(calls, list) else [calls]


def tool_call(call: Any, tools: list[dict[str, Any]] | None, where: str) -> dict[str, Any]:
    """Return a call with arguments as an object, where OpenAI's API sends a string.

    An argument that is null, and that the schema of its tool does not know, is no argument: it is
    what a table of calls of several tools has in the place of another tool's arguments.
    """
    function = (call.get("function") or call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise NotThisFormat(f"expected a tool call with name and arguments in {where}")
    arguments = _arguments(function, call, where)
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


def _arguments(function: dict[str, Any], call: dict[str, Any], where: str) -> Any:
    """What a function is called with; a call without arguments has an empty object.

    Raises NotThisFormat where they may stand under a name that is not known.
    """
    name, beside = function["name"], {**call, **function}
    given = [key for key in _ARGUMENTS if beside.get(key) is not None]
    if any(beside[key] != beside[given[0]] for key in given):
        raise NotThisFormat(
            f"the call of {name} in {where} has arguments under {' and '.join(given)}: keep one"
        )
    others = [key for key in beside if key not in _ABOUT_A_CALL and beside[key] is not None]
    if not given and others and not any(key in beside for key in _ARGUMENTS):
        raise NotThisFormat(
            f"the call of {name} in {where} has no arguments under {', '.join(_ARGUMENTS)} "
            f"(it has {', '.join(map(str, others))})"
        )
    arguments = beside[given[0]] if given else {}
    if isinstance(arguments, str):
        arguments = parse_json(arguments or "{}", f"in the arguments of {name} in {where}")
    # Where objects are lists of pairs (PHP, maps of Arrow) an empty one is an empty list.
    return {} if arguments is None or arguments == [] else arguments


def parse_json(text: str, where: str) -> Any:
    """Return the value of a JSON text in a record; raise NotThisFormat, with `where`, else."""
    try:
        return parse_record(text)
    except json.JSONDecodeError as error:
        hint = "; this is Python's notation: json.dumps writes JSON" if _PYTHON.match(text) else ""
        raise NotThisFormat(f"expected JSON {where} ({error.msg}){hint}") from error
    except Unreadable as error:
        raise NotThisFormat(f"{error} {where}", error.reason) from error


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
