"""Conversations to text by the tokenizer's own chat template, with the places that carry labels.

The template is the only authority on what a conversation looks like. Where its turns begin and end
is found by asking it again for the conversation's beginnings: the text before an answer, with the
generation prompt, must be a prefix of the text with the answer, and that a prefix of the whole.
Where this does not hold the template rewrites history, and each answer is rendered on its own.
"""

import re
from dataclasses import dataclass, replace
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from sft_app.data.conversation import Conversation, Message, Passage
from sft_app.data.layout import PLACEHOLDER, Layout, make_layout, placeholder_conversation


@dataclass(frozen=True, slots=True)
class Span:
    """Characters [start, stop) of a rendered text that the model shall learn to write."""

    start: int
    stop: int
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Break:
    """Where a text may be cut in two: one piece stops (an answer has ended), and another restarts
    with a question's own text, after a copy of what stands before the first question's text."""

    stop: int
    restart: int


@dataclass(frozen=True, slots=True)
class Rendered:
    text: str
    spans: list[Span]
    """In order, without overlap: each answer with its end-of-turn token."""
    breaks: list[Break]
    opening: int
    """Characters before the first question's own text: BOS, system prompt, tools, its header."""
    is_passage: bool = False
    """Made without a template: BOS and EOS are added as token ids, and it splits anywhere."""


def with_valid_unicode(rendered: Rendered) -> Rendered:
    """Half a surrogate pair (an escaped emoji cut in two) becomes U+FFFD; places stay."""
    try:
        rendered.text.encode("utf-8")
    except UnicodeEncodeError:
        return replace(rendered, text=_LONE_SURROGATE.sub("\ufffd", rendered.text))
    return rendered


class TemplateRefused(ValueError):
    """The chat template raised an error over this conversation, or its answers have no place."""


_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_GENERATION_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")
_MOST_LAYOUTS = 1000


class Renderer:
    """One tokenizer's chat template, and what has been learned about it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        added = {token.content for token in tokenizer.added_tokens_decoder.values()}
        # Templates end turns with tokens that are not always called special (<|eot_id|>).
        self._end_tokens = tuple(
            sorted(t for t in added | set(tokenizer.all_special_tokens) if t.strip())
        )
        self._reserved = re.compile("|".join(map(re.escape, self._end_tokens)) or "(?!)")
        self._layouts: dict[tuple[str, ...], Layout | None] = {}
        self._has_generation_prompt = self._writes_generation_prompt()
        self._can_break = self._pieces_are_what_the_template_says()

    def render(self, item: Conversation | Passage) -> list[Rendered]:
        """One rendering for the whole conversation; several where the template rewrites history.

        A template that shows earlier answers differently once a later turn follows (reasoning that
        is stripped, for example) has no single text with every answer as the model writes it. Each
        answer then becomes a rendering of its own, with the turns before it as context.

        Raises TemplateRefused.
        """
        if isinstance(item, Passage):
            text = item.prompt + item.completion
            spans = [Span(len(item.prompt), len(text), item.weight)] if item.weight > 0 else []
            return [Rendered(text, spans, [], 0, is_passage=True)]
        whole = self._by_layout(item) or self._by_prefixes(item)
        if whole is not None:
            return [whole]
        learned = [
            index
            for index, message in enumerate(item.messages)
            if message.role == "assistant" and message.weight > 0
        ]
        if not learned:
            return [Rendered(self._template(item, item.messages), [], [], 0)]
        return [self._one_answer(item, index) for index in learned]

    def ends_answers_with_a_token(self) -> bool:
        """Whether there is an end-of-turn token to learn."""
        probe = [Message("user", "Q"), Message("assistant", "A")]
        try:
            return self._template(Conversation(probe), probe).rstrip().endswith(self._end_tokens)
        except TemplateRefused:
            return True

    def has_reserved_text(self, item: Conversation | Passage) -> bool:
        """Whether some message spells out a special token: the tokenizer then reads it as that
        token, as it does in `apply_chat_template`."""
        if isinstance(item, Passage):
            return bool(
                self._reserved.search(item.prompt) or self._reserved.search(item.completion)
            )
        return any(self._reserved.search(message.content) for message in item.messages)

    def _by_layout(self, item: Conversation) -> Rendered | None:
        """The quick way: one call of the template, and the places known from another conversation
        of the same roles, proven by putting the text together from its parts."""
        if item.tools or any(message.extra for message in item.messages):
            return None
        roles = tuple(message.role for message in item.messages)
        if roles not in self._layouts:
            if len(self._layouts) >= _MOST_LAYOUTS:
                self._layouts.clear()
            self._layouts[roles] = self._learn_layout(roles)
        layout = self._layouts[roles]
        if layout is None:
            return None
        text = self._template(item, item.messages)
        starts = layout.literal_starts(text, [message.content for message in item.messages])
        if starts is None:
            return None
        weights = [m.weight for m in item.messages if m.role == "assistant"]
        spans = [
            Span(start.within(starts), stop.within(starts), weight)
            for (start, stop), weight in zip(layout.spans, weights, strict=True)
            if weight > 0
        ]
        breaks = [Break(a.within(starts), b.within(starts)) for a, b in layout.breaks]
        return Rendered(text, spans, breaks, layout.opening.within(starts))

    def _learn_layout(self, roles: tuple[str, ...]) -> Layout | None:
        conversation = placeholder_conversation(roles)
        try:
            rendered = self._by_prefixes(conversation)
        except TemplateRefused:
            return None
        if rendered is None:
            return None
        return make_layout(
            rendered.text,
            [message.content for message in conversation.messages],
            [(span.start, span.stop) for span in rendered.spans],
            [(b.stop, b.restart) for b in rendered.breaks],
            rendered.opening,
        )

    def _by_prefixes(self, item: Conversation) -> Rendered | None:
        """None when some turn's text is not a prefix of the whole: history is rewritten."""
        messages = item.messages
        text, marked = self._template_with_marks(item, messages)
        answers: list[tuple[int, int]] = []
        ends: list[int] = []
        for index, message in enumerate(messages):
            if message.role != "assistant":
                continue
            prefix = self._before_answer(item, index)
            turn = self._template(item, messages[: index + 1])
            if not (text.startswith(turn) and turn.startswith(prefix)):
                return None
            answers.append((len(prefix), self._end_of_turn(turn, len(prefix))))
            ends.append(len(turn))
        weights = [m.weight for m in messages if m.role == "assistant"]
        places = answers if marked is None else _marked_places(marked, answers)
        spans = [Span(*p, w) for p, w in zip(places, weights, strict=True) if w > 0]
        opening, breaks = self._questions(item, text, ends)
        return Rendered(text, spans, breaks, opening)

    def _one_answer(self, item: Conversation, index: int) -> Rendered:
        """The conversation up to one answer, and labels on that answer only."""
        messages = item.messages[: index + 1]
        prefix = self._before_answer(item, index)
        text, marked = self._template_with_marks(item, messages)
        if not text.startswith(prefix):
            raise TemplateRefused(
                "the chat template does not write an answer after its own generation prompt, "
                "so its place cannot be known"
            )
        place = (len(prefix), self._end_of_turn(text, len(prefix)))
        if marked:
            place = (marked[-1][0], max(marked[-1][1], place[1]))
        return Rendered(text, [Span(*place, messages[-1].weight)], [], 0)

    def _questions(self, item: Conversation, text: str, ends: list[int]) -> tuple[int, list[Break]]:
        """Where the first question's own text begins, and the breaks at the later ones.

        `ends` has the end of each answer in `text`.
        """
        if not self._can_break:
            return 0, []
        stops = iter(ends)
        stop, opening = 0, None
        breaks: list[Break] = []
        for index, message in enumerate(item.messages[:-1]):
            if message.role == "assistant":
                stop = next(stops)
            elif message.role == "user" and opening is None:
                opening = self._content_start(item, text, index)
                if opening is None:
                    return 0, []
            elif message.role == "user" and item.messages[index - 1].role == "assistant":
                restart = self._content_start(item, text, index)
                if restart is not None:
                    breaks.append(Break(stop, restart))
        return opening or 0, breaks

    def _content_start(self, item: Conversation, text: str, index: int) -> int | None:
        """Where message `index` begins in `text`, after its header: a placeholder shows it."""
        before = self._template(item, [*item.messages[:index], Message("user", PLACEHOLDER)])
        before = before.partition(PLACEHOLDER)[0]
        return len(before) if text.startswith(before) else None

    def _before_answer(self, item: Conversation, index: int) -> str:
        """What the model is given when it shall write message `index`."""
        before = item.messages[:index]
        if self._has_generation_prompt:
            return self._template(item, before, generate=True)
        text = self._template(item, [*before, Message("assistant", PLACEHOLDER)])
        return text.partition(PLACEHOLDER)[0]

    def _writes_generation_prompt(self) -> bool:
        """Templates may ignore add_generation_prompt: then a placeholder shows the header."""
        probe = [Message("user", "Q")]
        try:
            prompt = self._template(Conversation(probe), probe, generate=True)
            return prompt != self._template(Conversation(probe), probe)
        except TemplateRefused:
            return True

    def _end_of_turn(self, turn: str, start: int) -> int:
        """After the answer's end-of-turn token; whitespace behind that belongs to nobody.

        A template without an end-of-turn token ends its turns with text: all of it is learned.
        """
        end = len(turn.rstrip())
        return max(start, end if turn.endswith(self._end_tokens, 0, end) else len(turn))

    def _template(self, item: Conversation, messages: list[Message], generate: bool = False) -> str:
        try:
            text = self._tokenizer.apply_chat_template(
                [message.as_template_input() for message in messages],
                tools=item.tools,
                tokenize=False,
                add_generation_prompt=generate,
            )
        except (TemplateError, TypeError, KeyError, ValueError) as error:
            raise TemplateRefused(f"the chat template refuses the conversation: {error}") from error
        assert isinstance(text, str)
        return text

    def _template_with_marks(
        self, item: Conversation, messages: list[Message]
    ) -> tuple[str, list[tuple[int, int]] | None]:
        """The text, and the places inside {% generation %} blocks, if the template has any."""
        text = self._template(item, messages)
        template = self._tokenizer.get_chat_template(None, item.tools)
        if not _GENERATION_MARK.search(template):
            return text, None
        variables: dict[str, Any] = dict(self._tokenizer.special_tokens_map)
        rendered, marks = render_jinja_template(
            [[message.as_template_input() for message in messages]],
            tools=item.tools,
            chat_template=template,
            return_assistant_tokens_mask=True,
            **variables,
        )
        if rendered[0] != text:
            raise TemplateRefused("the chat template gives another text each time it is asked")
        return text, [(start, stop) for start, stop in marks[0]]

    def _pieces_are_what_the_template_says(self) -> bool:
        """Whether an opening and a later question make the text that the template itself gives
        for a conversation beginning with that question, with and without a system message."""
        self._can_break = True
        questions = [Message("user", "Q1"), Message("assistant", "A1")]
        questions += [Message("user", "Q2"), Message("assistant", "A2")]
        asked = False
        for system in ([], [Message("system", "S")]):
            try:
                whole = self._by_prefixes(Conversation(system + questions))
                tail = self._template(Conversation([]), system + questions[2:])
            except TemplateRefused:
                continue
            if whole is None or not whole.breaks:
                return False
            asked = True
            if whole.text[: whole.opening] + whole.text[whole.breaks[0].restart :] != tail:
                return False
        return asked


def _marked_places(
    marked: list[tuple[int, int]], answers: list[tuple[int, int]]
) -> list[tuple[int, int]]:
    """The template's own marks decide, except that an answer always ends with its end token.

    Raises TemplateRefused when the marks are not one for each answer: an all-zero mask would teach
    nothing, in silence.
    """
    if len(marked) != len(answers):
        raise TemplateRefused(
            f"the chat template marks {len(marked)} places for {len(answers)} answers"
        )
    return [
        (start, max(stop, answer_stop))
        for (start, stop), (_, answer_stop) in zip(marked, answers, strict=True)
    ]
