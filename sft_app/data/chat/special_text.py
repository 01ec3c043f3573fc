"""Text that looks like a special token: a user may type <|im_end|>, and only means what it says.

Where a message spells a special token, the message is rendered with a mark inside each of them. The
marks show afterwards which of the special tokens in the text are the message's, and which are the
template's own; the tokenizer then reads the former as text (`chat.tokenize`).
"""

import re
from bisect import bisect_left
from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from sft_app.data.chat.conversation import Conversation, Message, Passage
from sft_app.data.chat.spans import Exchange, Rendered, Span

_MARK = "\ue004"


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the tokens that are special to the tokenizer: no text of a user may become one."""
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return sorted({*added, *tokenizer.all_special_tokens} - {""}, key=lambda t: (-len(t), t))


class SpecialText:
    """Find, mark and place what looks like a special token of one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str) -> None:
        """Look for all special tokens, but those that `template` itself looks for in messages.

        (`'</think>' in message.content`: there the token is a part of the data, and no accident.)
        """
        tokens = [
            token
            for token in special_tokens(tokenizer)
            if token.strip()
            and not re.search(rf"(?:split\(|find\()\s*(['\"]){re.escape(token)}\1", template)
            and not re.search(rf"(['\"]){re.escape(token)}\1\s+(?:not )?in\b", template)
        ]
        self._pattern = re.compile("|".join(map(re.escape, tokens)) or "(?!)")

    def is_in(self, item: Conversation | Passage) -> bool:
        """Tell whether some message or schema spells out a special token."""
        if isinstance(item, Passage):
            return bool(self._pattern.search(item.prompt) or self._pattern.search(item.completion))
        return self._is_in_value(item.tools) or any(
            self._pattern.search(m.content) or (m.extra and self._is_in_value(m.extra))
            for m in item.messages
        )

    def places(self, text: str) -> tuple[tuple[int, int], ...]:
        """Return where special tokens are spelled out in a text that no template wrote."""
        return tuple(match.span() for match in self._pattern.finditer(text))

    def mark(self, item: Conversation) -> Conversation:
        """Return the conversation with a mark inside everything that looks like a special token."""
        messages = [self._marked_message(message) for message in item.messages]
        return replace(item, messages=messages, tools=self._marked_value(item.tools))

    def unmark(self, rendered: Rendered) -> Rendered:
        """Return the rendering without the marks, and with the places where they were."""
        parts = rendered.text.split(_MARK)
        text = "".join(parts)
        marks = []  # in `rendered.text`, each with the marks before it still in
        at = 0
        for part in parts[:-1]:
            at += len(part)
            marks.append(at)
            at += 1

        def moved(place: int) -> int:
            return place - bisect_left(marks, place)

        literal = []
        for number, mark in enumerate(marks):
            start = mark - number - 1  # the mark stands behind the first character
            match = self._pattern.match(text, start)
            if match is not None:
                literal.append(match.span())
        return replace(
            rendered,
            text=text,
            spans=[Span(moved(s.start), moved(s.stop), s.weight) for s in rendered.spans],
            exchanges=[
                Exchange(moved(e.start), moved(e.question_stop), moved(e.stop))
                for e in rendered.exchanges
            ],
            literal=tuple(literal),
        )

    def _is_in_value(self, value: Any) -> bool:
        if isinstance(value, str):
            return bool(self._pattern.search(value))
        if isinstance(value, dict):
            return any(map(self._is_in_value, [*value, *value.values()]))
        return isinstance(value, list) and any(map(self._is_in_value, value))

    def _marked_message(self, message: Message) -> Message:
        lengths = [(stop, weight) for stop, weight in message.earlier]
        marks = [match.start() + 1 for match in self._pattern.finditer(message.content)]
        earlier = tuple((stop + sum(m < stop for m in marks), weight) for stop, weight in lengths)
        extra = {
            key: value if key in ("tool_call_id", "name") else self._marked_value(value)
            for key, value in message.extra.items()
        }
        content = self._marked_value(message.content)
        return replace(message, content=content, extra=extra, earlier=earlier)

    def _marked_value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._pattern.sub(lambda m: m[0][:1] + _MARK + m[0][1:], value)
        if isinstance(value, list):
            return [self._marked_value(element) for element in value]
        if isinstance(value, dict):
            return {
                self._marked_value(key): self._marked_value(element)
                for key, element in value.items()
            }
        return value
