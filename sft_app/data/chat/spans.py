"""A conversation as text, with the places in it that carry labels and those where it may be cut."""

import re
from dataclasses import dataclass, replace

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Span:
    """Name characters [start, stop) of a rendered text that the model shall learn to write."""

    start: int
    stop: int
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Break:
    """Name a place to cut a text: one chunk stops (an answer has ended), and another restarts
    with a question's own text, after a copy of what stands before the first question's text."""

    stop: int
    restart: int


@dataclass(frozen=True, slots=True)
class Rendered:
    """Hold a text and its places, in characters."""

    text: str
    spans: list[Span]
    """In order, without overlap: each answer with its end-of-turn token."""
    breaks: list[Break]
    opening: int
    """Characters before the first question's own text: BOS, system prompt, tools, its header."""
    is_passage: bool = False
    """Made without a template: BOS and EOS are added as token ids, and it splits anywhere."""


def with_valid_unicode(rendered: Rendered) -> Rendered:
    """Replace half a surrogate pair (an escaped emoji cut in two) by U+FFFD; places stay."""
    try:
        rendered.text.encode("utf-8")
    except UnicodeEncodeError:
        return replace(rendered, text=_LONE_SURROGATE.sub("\ufffd", rendered.text))
    return rendered
