"""Conversations to text by the tokenizer's own chat template, with the places that carry labels.

The template is the only authority on what a conversation looks like. Where its turns begin and end
is found by asking it for the conversation's beginnings (`answer_places`). Where a turn is no prefix
of the whole the template rewrites history, and each answer is rendered on its own. What a message
says and the text lacks is an error (`not_rendered`).
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from sft_app.common.errors import ConfigError
from sft_app.common.thought_marks import begins_with_a_thought, end_of_empty_thought
from sft_app.config.schema.data import SpecialTokensInText
from sft_app.data.chat.answer_behind_prompt import answer_behind_its_prompt
from sft_app.data.chat.answer_places import (
    Places,
    Questions,
    find_exchanges,
    find_places,
    find_questions,
)
from sft_app.data.chat.conversation import Conversation, Message, Passage
from sft_app.data.chat.not_rendered import NotRenderedCheck
from sft_app.data.chat.spans import Rendered, Span, label_spans
from sft_app.data.chat.special_text import SpecialText
from sft_app.data.chat.template import ChatTemplate, TemplateRefused, probing
from sft_app.data.chat.template_layout import (
    PLACEHOLDER,
    Layout,
    make_layout,
    placeholder_conversation,
)

_MOST_LAYOUTS = 1000


class NotRendered(TemplateRefused):
    """The chat template leaves out some of what the conversation says."""

    def __init__(self, kinds: Counter[str]) -> None:
        """Keep how much is left out, by kind."""
        what = ", ".join(f"{kind} ({number})" for kind, number in sorted(kinds.items()))
        super().__init__(
            f"the chat template leaves out what the conversation says: {what}; "
            "tokenizer.chat_template can name one that renders it",
            "not_rendered",
        )
        self.kinds = kinds


class Renderer:
    """Render conversations by one tokenizer's chat template, and remember its layouts."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        special_tokens_in_text: SpecialTokensInText = SpecialTokensInText.text,
        variables: Mapping[str, Any] | None = None,
    ) -> None:
        """Ask the template of `tokenizer` what kind it is."""
        self.template = ChatTemplate(tokenizer, variables)
        self._has_template = bool(tokenizer.chat_template)
        self.special_text = SpecialText(tokenizer, self.template.source())
        self._marks_special_text = special_tokens_in_text is SpecialTokensInText.text
        self._layouts: dict[tuple[str, ...], Layout | None] = {}
        self._check = NotRenderedCheck(self._renderings)
        self._can_split = self._chunks_are_what_the_template_says()
        self.noted: Counter[str] = Counter()
        """What the last conversation lost and may lose: history_reasoning."""

    def render(self, item: Conversation | Passage) -> list[Rendered]:
        """Return one rendering of the whole; several where the template rewrites history.

        A template that shows earlier answers differently once a later turn follows (reasoning that
        is stripped, for example) has no single text with every answer as the model writes it. Each
        answer then becomes a rendering of its own, with the turns before it as context.

        Raises TemplateRefused, NotRendered where the texts lack some of the conversation, and
        ConfigError where there is no template, as with a model that is not tuned for chat yet.
        """
        self.noted = Counter()
        if isinstance(item, Passage):
            return [self._passage(item)]
        if not self._has_template:
            raise ConfigError(
                "the tokenizer has no chat template, and the data are conversations: name the "
                "format that the model shall learn, tokenizer.chat_template=chatml (or alpaca, "
                "fastchat, gemma, llama2, llama3, mistral, vicuna, zephyr, or a Jinja file); it is "
                "saved with the model."
            )
        if not self._marks_special_text or not self.special_text.is_in(item):
            return self._conversation(item)
        plain = self._conversation(item)
        marked = self._renderings(self.special_text.mark(item))
        marked = [self.special_text.unmark(rendered) for rendered in marked]
        if [r.text for r in plain] != [r.text for r in marked]:
            raise TemplateRefused(
                "a message spells a special token, and the chat template does not leave messages "
                "as they are; data.special_tokens_in_text=tokens reads it as that token",
                "special_token_in_text",
            )
        return marked

    def _passage(self, item: Passage) -> Rendered:
        text = item.prompt + item.completion
        spans = [Span(len(item.prompt), len(text), item.weight)] if item.weight > 0 else []
        literal = self.special_text.places(text) if self._marks_special_text else ()
        return Rendered(text, spans, [], is_passage=True, literal=literal)

    def _conversation(self, item: Conversation) -> list[Rendered]:
        by_layout = self._by_layout(item)
        if by_layout is not None:
            return [by_layout]
        rendered = self._renderings(item)
        if not _supervised(item):
            return rendered  # nothing is learned of it, with or without what the texts lack
        missing = self._check.missing(item, [r.text for r in rendered])
        self.noted = Counter({k: n for k, n in missing.items() if k == "history_reasoning"})
        missing -= self.noted
        if missing:
            raise NotRendered(missing)
        return rendered

    def _renderings(self, item: Conversation) -> list[Rendered]:
        supervised = _supervised(item)
        if not supervised:
            return [Rendered(self.template.render(item, item.messages), [], [])]
        if self._needs_its_prompts(item):
            return [self._as_asked(item, index) for index in supervised]
        whole = self._by_prefixes(item)
        if whole is not None:
            return [whole]
        renderings: list[Rendered] = []
        questions: Questions | None = None
        for index in reversed(supervised):
            rendered, questions = self._one_answer(item, index, questions)
            renderings.append(rendered)
        return renderings[::-1]

    def _by_layout(self, item: Conversation) -> Rendered | None:
        """The quick way: one call of the template, and the places known from another conversation
        of the same roles, verified by putting the text together from its parts."""
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
        answers = [message for message in item.messages if message.role == "assistant"]
        spans: list[Span] = []
        for (start, stop), message in zip(layout.spans, answers, strict=True):
            spans += label_spans(message, text, start.within(starts), stop.within(starts))
        return Rendered(text, spans, layout.exchanges_within(starts))

    def _learn_layout(self, roles: tuple[str, ...]) -> Layout | None:
        conversation = placeholder_conversation(roles)
        if self._needs_its_prompts(conversation):
            return None
        try:
            rendered = self._by_prefixes(conversation)
        except TemplateRefused:
            return None
        return None if rendered is None else make_layout(rendered, roles)

    def _by_prefixes(self, item: Conversation) -> Rendered | None:
        """None when some turn's text is not a prefix of the whole: history is rewritten."""
        messages = item.messages
        text, marked = self.template.render_with_marks(item, messages)
        places = find_places(self.template, item, text)
        if places is None:
            return None
        answers = [message for message in messages if message.role == "assistant"]
        bounds = places.answers if marked is None else _marked_places(marked, places.answers)
        spans: list[Span] = []
        for message, (start, stop) in zip(answers, bounds, strict=True):
            spans += label_spans(
                message, text, self._after_thought(message, text, start, stop), stop
            )
        return Rendered(
            text, spans, find_exchanges(item.messages, text, places, can_split=self._can_split)
        )

    def _one_answer(
        self, item: Conversation, index: int, longer: Questions | None = None
    ) -> tuple[Rendered, Questions]:
        """The conversation up to one answer, and labels on that answer only.

        `longer`: the questions of the rendering up to a later answer.
        """
        until = replace(item, messages=item.messages[: index + 1])
        text, marked = self.template.render_with_marks(until, until.messages)
        start = self.template.answer_start(until, index, text)
        if start is None:
            text, start = answer_behind_its_prompt(self.template, until, index)
            marked = None
        stop = self.template.end_of_turn(text, start)
        if marked is not None:
            own = [mark for mark in marked if mark[1] > start]
            [(start, stop)] = _marked_places(own, [(start, stop)])
        message = until.messages[index]
        start = self._after_thought(message, text, start, stop)
        questions = find_questions(self.template, until, text, longer)
        places = Places([], [], questions.places)
        spans = label_spans(message, text, start, stop)
        exchanges = find_exchanges(until.messages, text, places, can_split=self._can_split)
        return Rendered(text, spans, exchanges), questions

    def _after_thought(self, message: Message, text: str, start: int, stop: int) -> int:
        """Leave out the empty thought that thinking templates put before an answer without one.

        The prompt may have opened it. It is read only, unless
        tokenizer.chat_template_kwargs.enable_thinking=true asks for it.
        """
        thought = end_of_empty_thought(text, start, stop)
        says_it = begins_with_a_thought(message.content)
        if thought is None or says_it or message.extra.get("reasoning_content"):
            return start
        return start if self.template.is_asked_to_think else thought

    @cached_property
    def _hides_system_prompts(self) -> bool:
        """Whether the prompt that a user would send says more than the text of a conversation.

        Some templates put the system prompt into a question only while no answer follows it.
        """
        if self.template.has_generation_prompt:
            return False
        probe = [Message("system", PLACEHOLDER), Message("user", "Q")]
        try:
            with probing():
                asked = self.template.render(Conversation([]), probe, generate=True)
                told = self.template.render(Conversation([]), [*probe, Message("assistant", "A")])
        except TemplateRefused:
            return False
        return PLACEHOLDER in asked and PLACEHOLDER not in told

    def _needs_its_prompts(self, item: Conversation) -> bool:
        return item.messages[0].role == "system" and self._hides_system_prompts

    def _as_asked(self, item: Conversation, index: int) -> Rendered:
        """What a user would send for an answer, and behind it the answer as the template has it."""
        asked = self.template.render(item, item.messages[:index], generate=True)
        bare = item.messages[1:index]
        told = self.template.render(item, [*bare, item.messages[index]])
        bare_asked = self.template.render(item, bare, generate=True)
        if not told.startswith(bare_asked):
            raise TemplateRefused("the chat template does not show where an answer begins")
        text = asked + told[len(bare_asked) :]
        stop = self.template.end_of_turn(text, len(asked))
        return Rendered(text, label_spans(item.messages[index], text, len(asked), stop), [])

    def _chunks_are_what_the_template_says(self) -> bool:
        """Whether the prefix and a later exchange make the text that the template itself gives
        for a conversation of that exchange, with and without a system message."""
        self._can_split = True
        questions = [Message("user", "Q1"), Message("assistant", "A1")]
        questions += [Message("user", "Q2"), Message("assistant", "A2")]
        asked = False
        for system in ([], [Message("system", "S")]):
            whole = Conversation([*system, *questions])
            try:
                with probing():
                    rendered = (
                        self._by_prefixes(whole) or self._one_answer(whole, len(system) + 3)[0]
                    )
                    tail = self.template.render(Conversation([]), [*system, *questions[2:]])
            except TemplateRefused:
                continue
            if len(rendered.exchanges) < 2:
                return False
            asked = True
            first, second = rendered.exchanges
            if rendered.text[: first.start] + rendered.text[second.start :] != tail:
                return False
        return asked


def _supervised(item: Conversation) -> list[int]:
    return [index for index, message in enumerate(item.messages) if message.is_supervised]


def _marked_places(
    marked: list[tuple[int, int]], answers: list[tuple[int, int]]
) -> list[tuple[int, int]]:
    """The template's own marks decide, except that an answer always ends with its end token.

    One answer may have several, for its text and its end: it is one piece, and what stands between
    them is written by the model as well. Raises TemplateRefused where a mark stands outside of all
    answers, or an answer has none: an all-zero mask would teach nothing, in silence.
    """
    places = []
    for start, stop in answers:
        own = [mark for mark in marked if mark[0] < stop and mark[1] > start]
        if own:
            places.append((own[0][0], max(own[-1][1], stop)))
    outside = [mark for mark in marked if not any(mark[0] < b and mark[1] > a for a, b in answers)]
    if outside:
        raise TemplateRefused(
            f"the chat template marks {len(outside)} places outside of answers, which "
            "puts others' words into the place of an answer; tokenizer.chat_template can name "
            "another one"
        )
    if len(places) != len(answers):
        raise TemplateRefused(
            f"the chat template marks {len(marked)} places for {len(answers)} answers"
        )
    return places
