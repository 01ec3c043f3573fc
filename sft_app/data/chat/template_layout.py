"""Where a chat template puts the messages of a conversation, learned once for each order of roles.

Asking the template for every beginning of every conversation costs as much as tokenising it. Most
templates only put fixed text around each message; so the beginnings are rendered once, with
placeholders for messages, and give the fixed texts between them. For a real conversation the whole
text is rendered by the template and compared with the fixed texts around the real messages: when
they are equal, every place is known; when not, the caller goes the long way.
"""

import re
from bisect import bisect_right
from dataclasses import dataclass

from sft_app.data.chat.conversation import Conversation, Message
from sft_app.data.chat.spans import Exchange, Rendered


@dataclass(frozen=True, slots=True)
class Place:
    """Name a character of a fixed text: number of the text, and offset in it."""

    literal: int
    offset: int

    def within(self, literal_starts: list[int]) -> int:
        """Return the character, where the fixed texts begin at these."""
        return literal_starts[self.literal] + self.offset


@dataclass(frozen=True, slots=True)
class Layout:
    """Hold where the places of a conversation are, in terms of its fixed texts."""

    literals: list[str]
    """The fixed texts before, between and after the messages: one more than messages."""
    spans: list[tuple[Place, Place]]
    exchanges: list[tuple[Place, Place, Place]]

    def literal_starts(self, text: str, contents: list[str]) -> list[int] | None:
        """Where each fixed text begins in `text`; None unless the text is made of exactly these
        and the messages, as they are or (as many templates do) stripped."""
        return self._starts(text, contents) or self._starts(text, [c.strip() for c in contents])

    def _starts(self, text: str, contents: list[str]) -> list[int] | None:
        starts: list[int] = []
        parts: list[str] = []
        at = 0
        for literal, content in zip(self.literals, [*contents, ""], strict=True):
            starts.append(at)
            parts += (literal, content)
            at += len(literal) + len(content)
        return starts if "".join(parts) == text else None

    def exchanges_within(self, starts: list[int]) -> list[Exchange]:
        """Return the exchanges of a text whose fixed texts begin at `starts`."""
        return [Exchange(*(place.within(starts) for place in places)) for places in self.exchanges]


PLACEHOLDER = "\ue000\ue001"
"""Private-use characters: in no template."""

_NUMBERED = re.compile("\ue000([0-9]+)\ue001")


def placeholder_conversation(roles: tuple[str, ...]) -> Conversation:
    """Return messages that occur in no template, each once."""
    return Conversation(
        [Message(role, f"\ue000{number}\ue001") for number, role in enumerate(roles)]
    )


def make_layout(rendered: Rendered, roles: tuple[str, ...]) -> Layout | None:
    """Return the layout that a rendering of placeholders for messages of these roles shows.

    None when a placeholder does not stand in the text once and in its order, or when one that is no
    answer's stands where an answer is learned.
    """
    found = list(_NUMBERED.finditer(rendered.text))
    if [int(match[1]) for match in found] != list(range(len(roles))):
        return None
    others = [match for match, role in zip(found, roles, strict=True) if role != "assistant"]
    if any(
        s.start < other.end() and other.start() < s.stop for other in others for s in rendered.spans
    ):
        return None
    starts = [0, *(match.end() for match in found)]
    stops = [*(match.start() for match in found), len(rendered.text)]
    literals = [rendered.text[a:b] for a, b in zip(starts, stops, strict=True)]

    def place(character: int) -> Place:
        # The end of a literal, where a message begins, belongs to that literal.
        number = bisect_right(starts, character) - 1
        return Place(number, character - starts[number])

    return Layout(
        literals,
        [(place(span.start), place(span.stop)) for span in rendered.spans],
        [(place(e.start), place(e.question_stop), place(e.stop)) for e in rendered.exchanges],
    )
