"""Where the answers and questions of a rendered conversation stand, found by asking its template.

The text before an answer, with the generation prompt, must be a prefix of the text with the answer,
and that a prefix of the whole: then each is where the template says. Asking for every beginning
costs the square of the number of turns. So in long conversations the template is asked once for
each kind of gap between two messages (the same roles, the same text before and behind), the other
places follow from the marks of a second rendering, and some of them are asked for as a check.
"""

import re
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from sft_app.data.chat.conversation import Conversation, Message
from sft_app.data.chat.spans import Exchange
from sft_app.data.chat.template import ChatTemplate

ASK_FOR_EACH = 32
"""Messages of a conversation in which the template is asked for each beginning."""

_NUMBER = re.compile(r"\d+")
"""Numbers stand among the arguments of calls, and are no sign of another kind of gap."""

_MARK = "\ue003"
"""A private-use character: in no template."""


@dataclass(frozen=True, slots=True)
class Places:
    """Hold places in a text, in characters."""

    answers: list[tuple[int, int]]
    """[start, stop) of each answer, with its end-of-turn token."""
    turn_ends: list[int]
    """The end of each answer's turn, with what the template writes behind the end token."""
    questions: dict[int, int]
    """Where the text of a user's message begins, by the message's number."""


def find_places(template: ChatTemplate, item: Conversation, text: str) -> Places | None:
    """Return the places of answers and questions; None where some turn is no prefix of `text`.

    Raises TemplateRefused.
    """
    if len(item.messages) > ASK_FOR_EACH:
        places = _by_gaps(template, item, text)
        if places is not None:
            return places
    answers, ends, questions = [], [], {}
    for index, message in enumerate(item.messages):
        if message.role == "assistant":
            place = _ask(template, item, text, index)
            if place is None:
                return None
            answers.append(place[:2])
            ends.append(place[2])
        elif message.role == "user":
            start = template.content_start(item, text, index)
            if start is not None:
                questions[index] = start
    return Places(answers, ends, questions)


def _ask(
    template: ChatTemplate, item: Conversation, text: str, index: int
) -> tuple[int, int, int] | None:
    """Start and stop of an answer, and the end of its turn."""
    turn = template.render(item, item.messages[: index + 1])
    if not text.startswith(turn):
        return None
    start = template.answer_start(item, index, turn)
    if start is None:
        return None
    return start, template.end_of_turn(turn, start), len(turn)


@dataclass(frozen=True, slots=True)
class _Around:
    """The template's own text around an answer of one kind."""

    header: str
    """Of the answer's span, before what the message says."""
    rest: str
    """Of its turn, behind the span."""
    following: str
    """Behind the turn, before what the next message says."""


def _by_gaps(template: ChatTemplate, item: Conversation, text: str) -> Places | None:
    """None where the messages cannot be told apart, or a check fails."""
    bounds = _message_bounds(template, item, text)
    if bounds is None:
        return None
    messages = item.messages
    known: dict[tuple[str, ...], _Around] = {}
    answers, ends, questions = [], [], {}
    for index, message in enumerate(messages):
        first, last = bounds[index]
        if message.role == "user":
            questions[index] = first
        if message.role != "assistant":
            continue
        before = bounds[index - 1][1] if index else 0
        after = bounds[index + 1][0] if index + 1 < len(messages) else len(text)
        roles = [m.role for m in messages[max(0, index - 1) : index + 2]]
        gaps = (_NUMBER.sub("0", text[before:first]), _NUMBER.sub("0", text[last:after]))
        around = known.get((*roles, *gaps))
        if around is None:
            place = _ask(template, item, text, index)
            if place is None or not place[0] <= first <= last <= place[1]:
                return None
            around = _Around(
                text[place[0] : first], text[place[1] : place[2]], text[place[2] : after]
            )
            known[(*roles, *gaps)] = around
        end = after - len(around.following)
        stop = end - len(around.rest)
        start = first - len(around.header)
        if not (
            text.startswith(around.header, start)
            and text[stop:after] == around.rest + around.following
            and start >= before
            and stop >= last
        ):
            return None
        answers.append((start, stop))
        ends.append(end)
    numbers = [index for index, message in enumerate(messages) if message.role == "assistant"]
    for number in {len(numbers) // 2, len(numbers) - 1} if numbers else ():
        if _ask(template, item, text, numbers[number]) != (*answers[number], ends[number]):
            return None
    for index in {min(questions), max(questions)} if questions else ():
        if template.content_start(item, text, index) != questions[index]:
            return None
    return Places(answers, ends, questions)


def _message_bounds(
    template: ChatTemplate, item: Conversation, text: str
) -> list[tuple[int, int]] | None:
    """The first and the last character that each message itself says."""
    marked = [_marked(message) for message in item.messages]
    seen = template.render(item, marked)
    parts = seen.split(_MARK)
    if "".join(parts) != text:
        return None
    places = list(accumulate(map(len, parts[:-1])))
    counts = [_count(message.content) + _count(message.extra) for message in marked]
    if len(places) != sum(counts) or not all(counts):
        return None
    bounds, at = [], 0
    for count in counts:
        bounds.append((places[at], places[at + count - 1]))
        at += count
    return bounds


@dataclass(frozen=True, slots=True)
class Questions:
    """Where the text of each user's message begins in a rendering, by the message's number."""

    text: str
    places: dict[int, int]


def find_questions(
    template: ChatTemplate, item: Conversation, text: str, longer: Questions | None
) -> Questions:
    """Ask the template where each question begins in `text`.

    A template that rewrites history renders a conversation once for each of its answers. As far as
    `longer`, a rendering of more of the same conversation, begins with the same text, its places
    are those of this one. Raises TemplateRefused.
    """
    shared = 0 if longer is None else _common_length(text, longer.text)
    known = {} if longer is None else longer.places
    places: dict[int, int] = {}
    for index, message in enumerate(item.messages):
        if message.role != "user":
            continue
        place: int | None = known.get(index, shared + 1)
        if place is None or place > shared:
            place = template.content_start(item, text, index)
        if place is not None:
            places[index] = place
    return Questions(text, places)


def _common_length(first: str, second: str) -> int:
    """Return how many characters both begin with."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _marked(message: Message) -> Message:
    """The message with a mark at both ends of what it says."""
    extra = dict(message.extra)
    if reasoning := extra.get("reasoning_content"):
        extra["reasoning_content"] = _between_marks(reasoning)
    if calls := extra.get("tool_calls"):
        extra["tool_calls"] = [
            {**call, "function": {key: _marked_value(v) for key, v in call["function"].items()}}
            for call in calls
        ]
    return replace(message, content=_between_marks(message.content), extra=extra)


def _between_marks(text: str) -> str:
    """Inside the white space at its ends, which templates strip."""
    core = text.strip()
    if not core:
        return text
    start = text.index(core)
    return f"{text[:start]}{_MARK}{core}{_MARK}{text[start + len(core) :]}"


def _marked_value(value: Any) -> Any:
    if isinstance(value, str):
        return _between_marks(value)
    if isinstance(value, dict):
        return {key: _marked_value(element) for key, element in value.items()}
    return [_marked_value(element) for element in value] if isinstance(value, list) else value


def _count(value: Any) -> int:
    """How many marks are in what a message says."""
    if isinstance(value, str):
        return value.count(_MARK)
    if isinstance(value, dict):
        return sum(map(_count, value.values()))
    return sum(map(_count, value)) if isinstance(value, list) else 0


def find_exchanges(
    messages: list[Message], text: str, places: Places, *, can_split: bool
) -> list[Exchange]:
    """Return questions with their answers, in characters; empty where `text` cannot be split."""
    firsts = [
        index
        for index, message in enumerate(messages)
        if message.role == "user" and (not index or messages[index - 1].role != "user")
    ]
    # A question behind an answer begins an exchange; one behind a tool result does not.
    firsts = [i for i in firsts if i == firsts[0] or messages[i - 1].role == "assistant"]
    if not firsts or any(index not in places.questions for index in firsts):
        return []
    if len(firsts) > 1 and not can_split:
        return []
    numbers = [index for index, message in enumerate(messages) if message.role == "assistant"]
    ends = dict(zip(numbers, places.turn_ends, strict=False))
    exchanges = []
    for index, following in zip(firsts, [*firsts[1:], len(messages)], strict=True):
        start = places.questions[index]
        question_stop = _content_stop(text, start, messages[index].content)
        # An answer that is rendered alone has no labels before its own exchange.
        stop = ends.get(following - 1, places.questions.get(following, len(text)))
        if question_stop is None or not start <= question_stop <= stop:
            return []
        exchanges.append(Exchange(start, question_stop, stop))
    return exchanges


def _content_stop(text: str, start: int, content: str) -> int | None:
    """Where a question's text ends; as it is, or stripped."""
    for shown in (content, content.strip()):
        if text.startswith(shown, start):
            return start + len(shown)
    return None
