"""What of a conversation does not stand in the text that its chat template makes of it.

Templates leave out what they do not know: tools, calls, reasoning. What would be learned then is
an answer to something that was never said. A conversation is rendered once more with names of our
own in the place of all that it says; the names that are missing in the text are what is left out.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from sft_app.data.chat.conversation import Conversation, Message
from sft_app.data.chat.spans import Rendered
from sft_app.data.chat.template import TemplateRefused

_THINK = re.compile(r"</?think(?:ing)?>")
_MOST_SHAPES = 10_000

_OF_OTHERS = ("tools", "system", "user", "tool_result")
"""Kinds of what is said, and not by the model."""

Render = Callable[[Conversation], list[Rendered]]


@dataclass(frozen=True, slots=True)
class _Seen:
    """Numbers of the leaves of a conversation, as its renderings with names have them."""

    missing: list[int]
    """In no text."""
    learned: list[int]
    """In a labelled place."""


class NotRenderedCheck:
    """Compare conversations with their texts; conversations of one shape are asked for once."""

    def __init__(self, render: Render) -> None:
        """Use `render`, which returns all that a conversation becomes."""
        self._render = render
        self._seen_of_shape: dict[Any, _Seen] = {}

    def missing(self, item: Conversation, texts: list[str]) -> Counter[str]:
        """Count what is left out, by kind: system, user, assistant, reasoning, tool_calls, ...

        Reasoning of answers without labels is called history_reasoning: templates leave out what
        was thought about earlier questions on purpose.

        Raises TemplateRefused where what others say would be learned as an answer.
        """
        kinds = [kind for kind, _ in _leaves(item)]
        shape = _shape(item)
        if shape not in self._seen_of_shape:
            if len(self._seen_of_shape) >= _MOST_SHAPES:
                self._seen_of_shape.clear()
            self._seen_of_shape[shape] = self._look(item)
        seen = self._seen_of_shape[shape]
        others = sorted({kinds[number] for number in seen.learned} & set(_OF_OTHERS))
        if others:
            raise TemplateRefused(
                f"the chat template puts {' and '.join(others)} into the place of an answer, where "
                "it would be learned; tokenizer.chat_template can name another one"
            )
        missing = set(seen.missing)
        values = [value for _, value in _leaves(item)]
        missing |= set(_not_in(values, kinds, texts))
        return Counter(kinds[number] for number in sorted(missing))

    def _look(self, item: Conversation) -> _Seen:
        named, names = _with_names(item)
        try:
            rendered = self._render(named)
        except TemplateRefused:
            # Of this shape it takes only what it knows; `_not_in` looks at the values.
            return _Seen([], [])
        learned = "\n".join(r.text[span.start : span.stop] for r in rendered for span in r.spans)
        return _Seen(
            [n for n, name in enumerate(names) if not any(name in r.text for r in rendered)],
            [n for n, name in enumerate(names) if name in learned],
        )


def _leaves(item: Conversation) -> Iterator[tuple[str, str]]:
    """Everything that a conversation says, with its kind, in an order that names share."""
    for tool in item.tools or []:
        function = tool.get("function")
        for key in ("name", "description"):
            if isinstance(function, dict) and _says(function.get(key)):
                yield "tools", function[key]
        for parameter in _properties(function):
            yield "tools", str(parameter)
    for message in item.messages:
        if _says(message.content):
            kind = "tool_result" if message.role == "tool" else message.role
            yield kind, message.content
        if _says(message.extra.get("reasoning_content")):
            kind = "reasoning" if message.is_supervised else "history_reasoning"
            yield kind, message.extra["reasoning_content"]
        for call in message.extra.get("tool_calls", ()):
            yield "tool_calls", call["function"]["name"]
            for text in _texts(call["function"]["arguments"]):
                yield "tool_calls", text


def _with_names(item: Conversation) -> tuple[Conversation, list[str]]:
    """The conversation with a name in the place of each leaf, and the names in their order."""
    numbers, names = count(), []

    def name() -> str:
        names.append(f"Qx{next(numbers)}zKq")
        return names[-1]

    tools = []
    for tool in item.tools or []:
        function = tool.get("function")
        if isinstance(function, dict):
            function = dict(function)
            for key in ("name", "description"):
                if _says(function.get(key)):
                    function[key] = name()
            if _properties(function):
                function["parameters"] = _named_properties(function["parameters"], name)
            tool = {**tool, "function": function}
        tools.append(tool)
    messages = []
    for message in item.messages:
        content = name() if _says(message.content) else message.content
        extra = dict(message.extra)
        if _says(extra.get("reasoning_content")):
            extra["reasoning_content"] = name()
        if "tool_calls" in extra:
            extra["tool_calls"] = [
                {**call, "function": _named_function(call["function"], name)}
                for call in extra["tool_calls"]
            ]
        messages.append(replace(message, content=content, extra=extra, earlier=()))
    return replace(item, messages=messages, tools=tools or None), names


def _properties(function: Any) -> dict[str, Any]:
    """The parameters of a function, by name; empty where its schema has none, or is none."""
    parameters = function.get("parameters") if isinstance(function, dict) else None
    properties = parameters.get("properties") if isinstance(parameters, dict) else None
    return properties if isinstance(properties, dict) else {}


def _named_properties(parameters: dict[str, Any], name: Callable[[], str]) -> dict[str, Any]:
    """A schema with a name in the place of each parameter's, where it is required as well."""
    names = {key: name() for key in parameters["properties"]}
    named = {names[key]: value for key, value in parameters["properties"].items()}
    required = parameters.get("required")
    if isinstance(required, list):
        parameters = {**parameters, "required": [names.get(str(key), key) for key in required]}
    return {**parameters, "properties": named}


def _named_function(function: dict[str, Any], name: Callable[[], str]) -> dict[str, Any]:
    return {"name": name(), "arguments": _map(function["arguments"], name)}


def _texts(arguments: Any) -> Iterator[str]:
    """The keys and texts of arguments, in the order in which `_map` sees them."""
    if isinstance(arguments, str):
        if arguments.strip():
            yield arguments
    elif isinstance(arguments, dict):
        for key, value in arguments.items():
            yield str(key)
            yield from _texts(value)
    elif isinstance(arguments, list):
        for value in arguments:
            yield from _texts(value)


def _map(arguments: Any, name: Callable[[], str]) -> Any:
    if isinstance(arguments, str):
        return name() if arguments.strip() else arguments
    if isinstance(arguments, dict):
        return {name(): _map(value, name) for value in arguments.values()}
    if isinstance(arguments, list):
        return [_map(value, name) for value in arguments]
    return arguments


def _shape(item: Conversation) -> Any:
    """Equal for conversations that differ in nothing but what they say."""
    return (
        json.dumps(item.tools, default=_kind, sort_keys=False) if item.tools else None,
        tuple(_message_shape(message) for message in item.messages),
    )


def _message_shape(message: Message) -> Any:
    calls = [_value_shape(c["function"]["arguments"]) for c in message.extra.get("tool_calls", ())]
    return (
        message.role,
        _says(message.content),
        message.is_supervised,
        _says(message.extra.get("reasoning_content")),
        tuple(calls),
        tuple(sorted(message.extra)),
    )


def _value_shape(value: Any) -> Any:
    if isinstance(value, dict):
        return "{}", tuple(_value_shape(element) for element in value.values())
    if isinstance(value, list):
        return "[]", tuple(map(_value_shape, value))
    return _says(value) if isinstance(value, str) else _kind(value)


def _kind(value: Any) -> str:
    return type(value).__name__


def _says(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _not_in(values: list[str], kinds: list[str], texts: list[str]) -> Iterator[int]:
    """Numbers of contents and reasoning that a template drops for what they say.

    Some cut off what stands before </think>. White space may differ, and reasoning may be moved.
    """
    at = [0] * len(texts)
    for number, (value, kind) in enumerate(zip(values, kinds, strict=True)):
        if kind in ("tools", "tool_calls", "tool_result", "history_reasoning"):
            continue
        if not any(_find(value.strip(), text, n, at) for n, text in enumerate(texts)):
            parts = (part.strip() for line in value.splitlines() for part in _THINK.split(line))
            if not all(any(part in text for text in texts) for part in parts):
                yield number


def _find(value: str, text: str, number: int, at: list[int]) -> bool:
    """Whether the text has the value, looked for from where the one before was found."""
    place = text.find(value, at[number])
    if place < 0:
        return value in text
    at[number] = place
    return True
