"""Where a chat template puts the messages of a conversation, learned once for each order of roles.

Asking the template for every beginning of every conversation costs as much as tokenising it. Most
templates only put fixed text around each message; so the beginnings are rendered once, with
placeholders for messages, and give the fixed texts between them. For a real conversation the whole
text is rendered by the template and compared with the fixed texts around the real messages: when
they are equal, every place is known; when not, the caller goes the long way.
"""

from dataclasses import dataclass

from sft_app.data.chat.conversation import Conversation, Message


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
    breaks: list[tuple[Place, Place]]
    opening: Place

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


PLACEHOLDER = "\ue000\ue001"
"""Private-use characters: in no template."""


def placeholder_conversation(roles: tuple[str, ...]) -> Conversation:
    """Return messages that occur in no template, each once."""
    return Conversation(
        [Message(role, f"\ue000{number}\ue001") for number, role in enumerate(roles)]
    )


def make_layout(
    text: str,
    placeholders: list[str],
    spans: list[tuple[int, int]],
    breaks: list[tuple[int, int]],
    opening: int,
) -> Layout | None:
    """Return the layout that a rendering shows.

    None when a placeholder does not stand in the text once and in its order.
    """
    literals: list[str] = []
    starts: list[int] = []
    at = 0
    for placeholder in placeholders:
        found = text.find(placeholder, at)
        if found < 0 or text.count(placeholder) != 1:
            return None
        starts.append(at)
        literals.append(text[at:found])
        at = found + len(placeholder)
    starts.append(at)
    literals.append(text[at:])

    def place(character: int) -> Place:
        # The end of a literal, where a message begins, belongs to that literal.
        for number in reversed(range(len(starts))):
            if starts[number] <= character:
                return Place(number, character - starts[number])
        raise AssertionError("literals begin at 0")

    return Layout(
        literals,
        [(place(start), place(stop)) for start, stop in spans],
        [(place(stop), place(restart)) for stop, restart in breaks],
        place(opening),
    )
