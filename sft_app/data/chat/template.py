"""What a tokenizer's chat template answers when it is asked for a conversation or a part of it."""

import re
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from sft_app.data.chat.conversation import Conversation, Message
from sft_app.data.chat.template_layout import PLACEHOLDER

_GENERATION_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")


class TemplateRefused(ValueError):
    """The chat template raised an error over this conversation, or its answers have no place."""


class ChatTemplate:
    """Ask a chat template. Its methods raise TemplateRefused where the template refuses."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Take the template, and the end tokens, of `tokenizer`."""
        self._tokenizer = tokenizer
        added = {token.content for token in tokenizer.added_tokens_decoder.values()}
        self.end_tokens = tuple(
            sorted(t for t in added | set(tokenizer.all_special_tokens) if t.strip())
        )
        """Templates end turns with tokens that are not always called special (<|eot_id|>)."""
        self._has_generation_prompt = self._writes_generation_prompt()

    def render(self, item: Conversation, messages: list[Message], generate: bool = False) -> str:
        """Return the text of `messages`, with the tools of `item`; the way to answers after it."""
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

    def render_with_marks(
        self, item: Conversation, messages: list[Message]
    ) -> tuple[str, list[tuple[int, int]] | None]:
        """Return the text, and the places inside {% generation %} blocks, if there are any."""
        text = self.render(item, messages)
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

    def before_answer(self, item: Conversation, index: int) -> str:
        """Return what the model is given when it shall write message `index`."""
        before = item.messages[:index]
        if self._has_generation_prompt:
            return self.render(item, before, generate=True)
        text = self.render(item, [*before, Message("assistant", PLACEHOLDER)])
        return text.partition(PLACEHOLDER)[0]

    def content_start(self, item: Conversation, text: str, index: int) -> int | None:
        """Return where message `index` begins in `text`, behind its header."""
        before = self.render(item, [*item.messages[:index], Message("user", PLACEHOLDER)])
        before = before.partition(PLACEHOLDER)[0]
        return len(before) if text.startswith(before) else None

    def end_of_turn(self, turn: str, start: int) -> int:
        """Return the place after the answer's end-of-turn token; whitespace behind is nobody's.

        A template without an end-of-turn token ends its turns with text: all of it is learned.
        """
        end = len(turn.rstrip())
        return max(start, end if turn.endswith(self.end_tokens, 0, end) else len(turn))

    def ends_answers_with_a_token(self) -> bool:
        """Tell whether there is an end-of-turn token to learn."""
        probe = [Message("user", "Q"), Message("assistant", "A")]
        try:
            return self.render(Conversation(probe), probe).rstrip().endswith(self.end_tokens)
        except TemplateRefused:
            return True

    def _writes_generation_prompt(self) -> bool:
        """Templates may ignore add_generation_prompt: then a placeholder shows the header."""
        probe = [Message("user", "Q")]
        try:
            prompt = self.render(Conversation(probe), probe, generate=True)
            return prompt != self.render(Conversation(probe), probe)
        except TemplateRefused:
            return True
