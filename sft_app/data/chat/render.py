"""Conversations to text by the tokenizer's own chat template, with the places that carry labels.

The template is the only authority on what a conversation looks like. Where its turns begin and end
is found by asking it again for the conversation's beginnings: the text before an answer, with the
generation prompt, must be a prefix of the text with the answer, and that a prefix of the whole.
Where this does not hold the template rewrites history, and each answer is rendered on its own.
"""

import re

from transformers import PreTrainedTokenizerBase

from sft_app.data.chat.conversation import Conversation, Message, Passage
from sft_app.data.chat.spans import Break, Rendered, Span
from sft_app.data.chat.template import ChatTemplate, TemplateRefused
from sft_app.data.chat.template_layout import Layout, make_layout, placeholder_conversation

_MOST_LAYOUTS = 1000


class Renderer:
    """Render conversations by one tokenizer's chat template, and remember its layouts."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Ask the template of `tokenizer` what kind it is."""
        self.template = ChatTemplate(tokenizer)
        reserved = map(re.escape, self.template.end_tokens)
        self._reserved = re.compile("|".join(reserved) or "(?!)")
        self._layouts: dict[tuple[str, ...], Layout | None] = {}
        self._can_break = self._pieces_are_what_the_template_says()

    def render(self, item: Conversation | Passage) -> list[Rendered]:
        """Return one rendering of the whole; several where the template rewrites history.

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
            return [Rendered(self.template.render(item, item.messages), [], [], 0)]
        return [self._one_answer(item, index) for index in learned]

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
        text = self.template.render(item, item.messages)
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
        text, marked = self.template.render_with_marks(item, messages)
        answers: list[tuple[int, int]] = []
        ends: list[int] = []
        for index, message in enumerate(messages):
            if message.role != "assistant":
                continue
            prefix = self.template.before_answer(item, index)
            turn = self.template.render(item, messages[: index + 1])
            if not (text.startswith(turn) and turn.startswith(prefix)):
                return None
            answers.append((len(prefix), self.template.end_of_turn(turn, len(prefix))))
            ends.append(len(turn))
        weights = [m.weight for m in messages if m.role == "assistant"]
        places = answers if marked is None else _marked_places(marked, answers)
        spans = [Span(*p, w) for p, w in zip(places, weights, strict=True) if w > 0]
        opening, breaks = self._questions(item, text, ends)
        return Rendered(text, spans, breaks, opening)

    def _one_answer(self, item: Conversation, index: int) -> Rendered:
        """The conversation up to one answer, and labels on that answer only."""
        messages = item.messages[: index + 1]
        prefix = self.template.before_answer(item, index)
        text, marked = self.template.render_with_marks(item, messages)
        if not text.startswith(prefix):
            raise TemplateRefused(
                "the chat template does not write an answer after its own generation prompt, "
                "so its place cannot be known"
            )
        place = (len(prefix), self.template.end_of_turn(text, len(prefix)))
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
                opening = self.template.content_start(item, text, index)
                if opening is None:
                    return 0, []
            elif message.role == "user" and item.messages[index - 1].role == "assistant":
                restart = self.template.content_start(item, text, index)
                if restart is not None:
                    breaks.append(Break(stop, restart))
        return opening or 0, breaks

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
                tail = self.template.render(Conversation([]), system + questions[2:])
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
