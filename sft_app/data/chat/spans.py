"""A conversation as text, with the places in it that carry labels and those where it may be cut."""

import re
from dataclasses import dataclass, replace

from sft_app.data.chat.conversation import Message

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Span:
    """Name characters [start, stop) of a rendered text that the model shall learn to write."""

    start: int
    stop: int
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Exchange:
    """Name a question and the answers to it, in characters of a text or in tokens of an example.

    What stands before the first question's own text (BOS, system prompt, tools, the header of a
    question) is the prefix of a conversation. The prefix and any one exchange, from the question's
    own text on, are what the chat template writes for that exchange alone.
    """

    start: int
    """Where the question's own text begins, behind its header."""
    question_stop: int
    """Where it ends, before what closes its turn."""
    stop: int
    """Where the last answer ends; between it and the next exchange is a header only."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """Hold a text and its places, in characters."""

    text: str
    spans: list[Span]
    """In order, without overlap: each answer with its end-of-turn token."""
    exchanges: list[Exchange]
    """In order; empty where it is not known how the conversation may be split."""
    is_passage: bool = False
    """Made without a template: BOS and EOS are added as token ids, and it splits anywhere."""
    literal: tuple[tuple[int, int], ...] = ()
    """Characters [start, stop) that look like a special token and are text."""


def with_valid_unicode(rendered: Rendered) -> Rendered:
    """Replace half a surrogate pair (an escaped emoji cut in two) by U+FFFD; places stay."""
    try:
        rendered.text.encode("utf-8")
    except UnicodeEncodeError:
        return replace(rendered, text=_LONE_SURROGATE.sub("\ufffd", rendered.text))
    return rendered


def label_spans(message: Message, text: str, start: int, stop: int) -> list[Span]:
    """Return the labels of an answer in [start, stop): one span, or one for each weighted part."""
    if not message.earlier:
        return [Span(start, stop, message.weight)] if message.weight > 0 else []
    core = message.content.strip()
    place = text.find(core, start, stop)
    if place < 0:
        weight = min([message.weight, *(weight for _, weight in message.earlier)])
        return [Span(start, stop, weight)] if weight > 0 else []
    place -= message.content.index(core)
    spans, at = [], start
    for length, weight in message.earlier:
        until = min(max(place + length, at), stop)
        if weight > 0 and until > at:
            spans.append(Span(at, until, weight))
        at = until
    if message.weight > 0 and stop > at:
        spans.append(Span(at, stop, message.weight))
    return spans
