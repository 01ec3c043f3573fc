"""What a tokenizer's chat template answers when it is asked for a conversation or a part of it."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from sft_app.common.errors import ConfigError
from sft_app.common.resource_limits import TooExpensive, cpu_limit, memory_limit
from sft_app.data.chat.conversation import Conversation, Message
from sft_app.data.chat.template_layout import PLACEHOLDER

MAX_SECONDS = 10
"""Of computing, for one conversation; a thousand turns take a hundredth of a second."""
MAX_GROWTH = 1 << 30
"""Bytes of memory that rendering may need."""
MAX_CHARACTERS = 1 << 27
"""Of one rendered conversation."""

_QUESTION = "\ue000\ue002"
"""Private-use characters, as PLACEHOLDER."""

_GENERATION_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")


class TemplateRefused(ValueError):
    """The chat template raised an error over this conversation, or its answers have no place."""

    def __init__(self, message: str, reason: str = "template_refused") -> None:
        """Keep a short name to count by beside the message."""
        super().__init__(message)
        self.reason = reason


class ChatTemplate:
    """Ask a chat template. Its methods raise TemplateRefused where the template refuses.

    A template is a program that came with a download. One that computes for ever or fills the
    memory over a single short question raises ConfigError at once; over a conversation it is
    refused as every other that the template cannot render.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, variables: Mapping[str, Any] | None = None
    ) -> None:
        """Take the template, and the end tokens, of `tokenizer`.

        `variables` are what the template may be told (`tokenizer.chat_template_kwargs`).
        """
        self._tokenizer = tokenizer
        self._variables = dict(variables or {})
        self.is_asked_to_think = self._variables.get("enable_thinking") is True
        added = {token.content for token in tokenizer.added_tokens_decoder.values()}
        self.end_tokens = tuple(
            sorted(t for t in added | set(tokenizer.all_special_tokens) if t.strip())
        )
        """Templates end turns with tokens that are not always called special (<|eot_id|>)."""
        self._always_behind = ""
        self._always_behind = self._header_behind_everything()
        self.has_generation_prompt = self._writes_generation_prompt()
        """Templates may ignore add_generation_prompt: then a placeholder shows the header."""

    def render(self, item: Conversation, messages: list[Message], generate: bool = False) -> str:
        """Return the text of `messages` with the tools of `item`.

        With `generate`, the beginning of an answer follows, as at inference; without, it does not,
        though the template may write it behind every conversation (Command-R's).
        """
        with _refusals():
            text = self._tokenizer.apply_chat_template(
                self._inputs(messages),
                tools=item.tools,
                tokenize=False,
                add_generation_prompt=generate,
                **self._variables,
            )
            assert isinstance(text, str)
            if len(text) > MAX_CHARACTERS:
                raise TooExpensive(f"more than {MAX_CHARACTERS:,} characters of text")
        return text if generate else text.removesuffix(self._always_behind)

    def render_with_marks(
        self, item: Conversation, messages: list[Message]
    ) -> tuple[str, list[tuple[int, int]] | None]:
        """Return the text, and the places inside {% generation %} blocks, if there are any."""
        text = self.render(item, messages)
        template = self._tokenizer.get_chat_template(None, item.tools)
        if not _GENERATION_MARK.search(template):
            return text, None
        variables: dict[str, Any] = {**self._tokenizer.special_tokens_map, **self._variables}
        with _refusals():
            rendered, marks = render_jinja_template(
                [self._inputs(messages)],
                tools=item.tools,
                chat_template=template,
                return_assistant_tokens_mask=True,
                **variables,
            )
        if rendered[0].removesuffix(self._always_behind) != text:
            raise TemplateRefused("the chat template gives another text each time it is asked")
        return text, [(start, stop) for start, stop in marks[0]]

    def source(self, item: Conversation | None = None) -> str:
        """Return the template's own text; a tokenizer may have another one for tools."""
        try:
            return str(self._tokenizer.get_chat_template(None, item.tools if item else None))
        except ValueError:
            return ""

    def before_answer(self, item: Conversation, index: int) -> str:
        """Return what the model is given when it shall write message `index`."""
        before = item.messages[:index]
        if self.has_generation_prompt:
            return self.render(item, before, generate=True)
        text = self.render(item, [*before, Message("assistant", PLACEHOLDER)])
        return text.partition(PLACEHOLDER)[0]

    def answer_start(self, item: Conversation, index: int, turn: str) -> int | None:
        """Return where message `index` begins in `turn`, the text up to its end.

        None where the text does not begin with what the model is given.
        """
        prefix = self.before_answer(item, index)
        if turn.startswith(prefix):
            return len(prefix)
        if not self.has_generation_prompt:
            # A call of tools may have another header than a text, which the model has to write.
            asked = self.render(item, item.messages[:index], generate=True)
            if turn.startswith(asked):
                return len(asked)
        return None

    def content_start(self, item: Conversation, text: str, index: int) -> int | None:
        """Return where message `index` begins in `text`, behind its header."""
        before = self.render(item, [*item.messages[:index], Message("user", PLACEHOLDER)])
        before = before.partition(PLACEHOLDER)[0]
        return len(before) if text.startswith(before) else None

    def end_of_turn(self, turn: str, start: int) -> int:
        """Return the place after the answer's end-of-turn token; whitespace behind is nobody's.

        A template without an end-of-turn token ends its turns with text: all of it is supervised.
        """
        end = len(turn.rstrip())
        return max(start, end if turn.endswith(self.end_tokens, 0, end) else len(turn))

    def _inputs(self, messages: list[Message]) -> list[dict[str, Any]]:
        as_text = any("tool_calls" in m.extra for m in messages) and self._takes_text_arguments
        return [message.as_template_input(text_arguments=as_text) for message in messages]

    @cached_property
    def _takes_text_arguments(self) -> bool:
        """Whether the arguments of calls have to be JSON text, as DeepSeek's templates want them.

        An object ends such a template in an error, or stands in the text in Python's notation.
        """
        arguments = {PLACEHOLDER: True}
        function = {"name": "f", "arguments": arguments}
        call = {"id": "abcdef123", "type": "function", "function": function}
        probe = [Message("user", "Q"), Message("assistant", "", extra={"tool_calls": [call]})]

        def written(*, text_arguments: bool) -> str:
            inputs = [m.as_template_input(text_arguments=text_arguments) for m in probe]
            with probing(), _refusals():
                return str(
                    self._tokenizer.apply_chat_template(inputs, tokenize=False, **self._variables)
                )

        try:
            object_shown = str(arguments) not in written(text_arguments=False)
        except TemplateRefused:
            object_shown = False
        if object_shown:
            return False
        try:
            return json.dumps(arguments, ensure_ascii=False) in written(text_arguments=True)
        except TemplateRefused:
            return False

    def _header_behind_everything(self) -> str:
        """The header of an answer, where the template writes it whether it is asked to or not.

        It stands behind a question and behind an answer alike, and gives way to a question's.
        """
        asked = [Message("user", _QUESTION)]
        told = [*asked, Message("assistant", PLACEHOLDER)]
        try:
            with probing():
                after_question, behind, before_question = (
                    self.render(Conversation([]), messages).rpartition(said)[2]
                    for messages, said in (
                        (asked, _QUESTION),
                        (told, PLACEHOLDER),
                        ([*told, *asked], PLACEHOLDER),
                    )
                )
        except TemplateRefused:
            return ""
        end = self._tokenizer.eos_token
        _, found, header = behind.rpartition(end or PLACEHOLDER)
        is_one = bool(found and header.strip()) and after_question.endswith(header)
        return header if is_one and not before_question.startswith(behind) else ""

    def _writes_generation_prompt(self) -> bool:
        probe = [Message("user", "Q")]
        try:
            with probing():
                prompt = self.render(Conversation(probe), probe, generate=True)
                return prompt != self.render(Conversation(probe), probe)
        except TemplateRefused:
            return True


@contextmanager
def probing() -> Iterator[None]:
    """Ask the template for the shortest conversations; no other one could do with less.

    Raises ConfigError where it takes too much for that.
    """
    try:
        with memory_limit(MAX_GROWTH):
            yield
    except TemplateRefused as error:
        if error.reason != "template_too_expensive":
            raise
        raise ConfigError(
            f"tokenizer.chat_template: one short question takes {error.__cause__}: name another "
            "template, tokenizer.chat_template=/path/to/template.jinja."
        ) from error


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn whatever a template raises into TemplateRefused; a template may raise anything."""
    try:
        with cpu_limit(MAX_SECONDS):
            yield
    except (TooExpensive, MemoryError) as error:
        cause = (
            error if str(error) else TooExpensive(f"more than {MAX_GROWTH >> 20:,} MiB of memory")
        )
        raise TemplateRefused(
            f"the chat template takes {cause}", "template_too_expensive"
        ) from cause
    except (
        TemplateError,
        TypeError,
        KeyError,
        ValueError,
        AttributeError,
        ArithmeticError,
        IndexError,
        RecursionError,
        AssertionError,
    ) as error:
        raise TemplateRefused(f"the chat template refuses the conversation: {error}") from error
