"""Conversations to text by the tokenizer's own chat template, with the places that carry labels."""

from dataclasses import dataclass

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from sft_app.data.conversation import Conversation, Message, Passage


@dataclass(frozen=True, slots=True)
class Span:
    """Characters [start, stop) of a rendered text that the model shall learn to write."""

    start: int
    stop: int
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Rendered:
    text: str
    spans: list[Span]
    """In order, without overlap: each assistant turn with its end-of-turn token."""
    exchanges: list[int]
    """Where each question but the first begins (characters): the text may be split there."""
    system: int
    """Characters before the first question: repeated before every later piece of a split."""
    is_passage: bool = False
    """Made without a template: BOS and EOS are added as token ids, and it splits anywhere."""


class TemplateRefused(ValueError):
    """The chat template raised an error over this conversation."""


class Renderer:
    """One tokenizer's chat template, probed once for how it writes headers and ends of turns."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._special = tuple(sorted(set(tokenizer.all_special_tokens), key=len, reverse=True))
        self._user_header = self._find_user_header()

    def render(self, item: Conversation | Passage) -> list[Rendered]:
        """One rendering for the whole conversation; several where the template rewrites history.

        A template that shows earlier answers differently once a later turn follows (reasoning that
        is stripped, for example) has no single text with every answer as the model writes it. Each
        answer then becomes a rendering of its own, with the turns before it as context.

        Raises TemplateRefused.
        """
        if isinstance(item, Passage):
            return [_render_passage(item)]
        whole = self._render_whole(item)
        if whole is not None:
            return [whole]
        answers = [i for i, m in enumerate(item.messages) if m.role == "assistant"]
        return [self._render_answer(item, index) for index in answers]

    def _render_whole(self, item: Conversation) -> Rendered | None:
        """None when some turn's text is not a prefix of the whole: history is rewritten."""
        messages = item.messages
        text = self._template(item, messages)
        spans: list[Span] = []
        exchanges: list[int] = []
        for index, message in enumerate(messages):
            if message.role != "assistant":
                continue
            prefix = self._template(item, messages[:index], generate=True)
            turn = self._template(item, messages[: index + 1])
            if not (text.startswith(turn) and turn.startswith(prefix)):
                return None
            if message.weight > 0:
                spans.append(self._span(prefix, turn, message))
            if index + 1 < len(messages) and messages[index + 1].role == "user":
                exchanges.append(len(turn))
        return Rendered(text, spans, exchanges, self._system_length(text, messages))

    def _render_answer(self, item: Conversation, index: int) -> Rendered:
        """The conversation up to one answer, and labels on that answer only."""
        messages = item.messages
        prefix = self._template(item, messages[:index], generate=True)
        text = self._template(item, messages[: index + 1])
        if not text.startswith(prefix):
            raise TemplateRefused(
                "the chat template does not write an answer after its own generation prompt, "
                "so the answer's place cannot be known"
            )
        spans = [self._span(prefix, text, messages[index])] if messages[index].weight > 0 else []
        return Rendered(text, spans, [], self._system_length(text, messages))

    def _span(self, prefix: str, turn: str, message: Message) -> Span:
        """The answer up to its last end-of-turn token; whitespace after that belongs to nobody.

        A template without an end-of-turn token ends its turns with text: all of it is learned.
        """
        end = len(turn.rstrip())
        stop = end if turn.endswith(self._special, 0, end) else len(turn)
        return Span(len(prefix), max(stop, len(prefix)), message.weight)

    def _template(self, item: Conversation, messages: list[Message], generate: bool = False) -> str:
        try:
            text = self._tokenizer.apply_chat_template(
                [message.as_template_input() for message in messages],
                tools=item.tools,
                tokenize=False,
                add_generation_prompt=generate,
            )
        except (TemplateError, TypeError, KeyError) as error:
            raise TemplateRefused(f"the chat template refuses it: {error}") from error
        assert isinstance(text, str)
        return text

    def _find_user_header(self) -> str | None:
        """What the template writes before a question that follows an answer."""
        turns = [Message("user", "Q1"), Message("assistant", "A1"), Message("user", "Q2")]
        probe = Conversation(turns)
        try:
            before, after = self._template(probe, turns[:2]), self._template(probe, turns)
        except TemplateRefused:
            return None
        if not after.startswith(before):
            return None
        return after[len(before) :].partition("Q2")[0]

    def _system_length(self, text: str, messages: list[Message]) -> int:
        """Characters before the header of the first question: BOS, the system prompt, tools."""
        question = next(i for i, m in enumerate(messages) if m.role == "user")
        skip = sum(len(m.content.strip()) for m in messages[:question])
        at = text.find(messages[question].content.strip(), skip)
        header = self._user_header
        if header is None or at < 0 or not text.endswith(header, 0, at):
            return 0
        return at - len(header)


def _render_passage(item: Passage) -> Rendered:
    text = item.prompt + item.completion
    spans = [Span(len(item.prompt), len(text), item.weight)]
    return Rendered(text, spans, [], 0, is_passage=True)
