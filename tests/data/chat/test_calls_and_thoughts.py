"""Calls, their arguments, and what was thought before them."""

import json
from typing import Any

import pytest

from sft_app.data.chat.conversation import Conversation, Message
from sft_app.data.chat.render import Renderer
from sft_app.data.chat.template import TemplateRefused
from tests.data.templates_of_families import (
    ASKS_BEHIND_EVERYTHING,
    ASKS_WITHOUT_A_THOUGHT,
    HIDES_THOUGHTS_ONCE_ANSWERED,
)
from tests.data.tokenizers_for_tests import with_template

ARGUMENTS = {"city": 'Åbo\n"2"', "days": 2, "hourly": True, "unit": None}


def template(arguments: str) -> str:
    return (
        "{% for m in messages %}<|im_start|>{{ m.role + '\n' + m.content }}"
        "{% for c in m.tool_calls or [] %}{{ '[' + c.function.name + ' ' }}"
        f"{arguments}{{{{ ']' }}}}{{% endfor %}}<|im_end|>\n{{% endfor %}}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


WRITES_JSON = template("{{ c.function.arguments | tojson }}")
JOINS_TEXT = template("{{ '' + c.function.arguments }}")
"""As DeepSeek's: an object cannot be joined to a text."""
SHOWS_WHAT_COMES = template("{{ c.function.arguments }}")
"""An object would stand there in Python's notation."""
TAKES_BOTH = template(
    "{% if c.function.arguments is string %}{{ c.function.arguments }}"
    "{% else %}{{ c.function.arguments | tojson }}{% endif %}"
)
"""As Kimi-K2's."""


@pytest.mark.parametrize(
    "chat_template",
    [WRITES_JSON, JOINS_TEXT, SHOWS_WHAT_COMES, TAKES_BOTH],
    ids=["writes json", "joins text", "shows what comes", "takes both"],
)
@pytest.mark.parametrize("arguments", [ARGUMENTS, {}], ids=["some", "none"])
def test_a_call_is_learned_with_its_arguments_in_json(chat_template, arguments):
    call = {"type": "function", "function": {"name": "weather", "arguments": arguments}}
    messages = [
        Message("user", "How warm?"),
        Message("assistant", "", extra={"tool_calls": [call]}),
        Message("tool", "7"),
        Message("assistant", "It is 7."),
    ]
    [result] = Renderer(with_template(chat_template)).render(Conversation(messages))
    first, last = (result.text[span.start : span.stop] for span in result.spans)
    assert first.startswith("[weather ") and first.endswith("]<|im_end|>")
    assert json.loads(first.removeprefix("[weather ").removesuffix("]<|im_end|>")) == arguments
    assert last == "It is 7.<|im_end|>"


@pytest.mark.parametrize("beside", ["reasoning", "text"])
def test_a_thought_before_a_call_is_in_the_prompt_of_the_answer(beside):
    """The prompt is the one that a user would send, though the whole conversation hides it."""
    call = {"type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}
    extra: dict[str, Any] = {"tool_calls": [call]}
    if beside == "reasoning":
        extra["reasoning_content"] = "I look."
    messages = [
        Message("user", "How warm?"),
        Message("assistant", "I look." if beside == "text" else "", extra=extra),
        Message("tool", "7"),
        Message("assistant", "It is 7.", extra={"reasoning_content": "7, then."}),
    ]
    tokenizer = with_template(HIDES_THOUGHTS_ONCE_ANSWERED)
    renderings = Renderer(tokenizer).render(Conversation(messages))
    given = [message.as_template_input() for message in messages]
    for index, result in zip((1, 3), renderings, strict=True):
        prompt = tokenizer.apply_chat_template(
            given[:index], tokenize=False, add_generation_prompt=True
        )
        [span] = result.spans
        assert result.text[: span.start] == prompt
    call_text, answer_text = (r.text[r.spans[0].start : r.spans[0].stop] for r in renderings)
    assert call_text.startswith("/thought\nI look.<|im_end|><|im_start|>assistant/call\n{")
    assert answer_text == (
        "/thought\n7, then.<|im_end|><|im_start|>assistant/answer\nIt is 7.<|im_end|>"
    )


TURNS = [Message(role, text) for role, text in zip(["user", "assistant"] * 2, "QARB", strict=True)]


def test_a_header_behind_every_conversation_is_nobodys():
    """Learned, the model would go on with the next answer behind its end; and what it has to write
    before its text would not be learned."""
    [result] = Renderer(with_template(ASKS_BEHIND_EVERYTHING)).render(Conversation(TURNS))
    learned = [result.text[span.start : span.stop] for span in result.spans]
    assert learned == [f"<|start_header_id|>{text}<|end_header_id|><|im_end|>" for text in "AB"]
    assert result.text.endswith("<|im_end|>")


def test_an_answer_is_learned_behind_the_empty_thought_that_asks_for_none():
    tokenizer = with_template(ASKS_WITHOUT_A_THOUGHT)
    given = [message.as_template_input() for message in TURNS]
    renderings = Renderer(tokenizer).render(Conversation(TURNS))
    for index, result in zip((1, 3), renderings, strict=True):
        prompt = tokenizer.apply_chat_template(
            given[:index], tokenize=False, add_generation_prompt=True
        )
        assert prompt.endswith("<|channel>thought\n<channel|>")
        [span] = result.spans
        assert result.text[: span.start] == prompt
        assert result.text[span.start : span.stop] == f"{TURNS[index].content}<|im_end|>"
    [asked] = Renderer(tokenizer, variables={"enable_thinking": True}).render(Conversation(TURNS))
    assert "channel" not in asked.text


def test_a_thought_is_not_learned_behind_the_prompt_that_asks_for_none():
    says = Message("assistant", "<|channel>thought\nT<channel|>A")
    with pytest.raises(TemplateRefused, match="behind its own generation prompt"):
        Renderer(with_template(ASKS_WITHOUT_A_THOUGHT)).render(Conversation([TURNS[0], says]))
