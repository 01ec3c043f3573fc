"""A chat template is a program from a download: what it may take is limited."""

import pytest

from sft_app.common.errors import ConfigError
from sft_app.data.chat import template as module
from sft_app.data.chat.conversation import Conversation, Message
from sft_app.data.chat.render import Renderer
from sft_app.data.chat.template import TemplateRefused
from sft_app.data.read.conversation_reader import Item
from sft_app.data.read.record import Origin
from sft_app.data.store import tokenize_pool
from sft_app.data.store.tokenize_pool import Rendering, _Tokenise
from tests.data.tokenizers_for_tests import CHATML, with_template

LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
GROWS = "{{ 'x' * 3000000000 }}"
DOUBLES = (
    "{% set n = namespace(x='xxxxxxxx') %}{% for i in range(40) %}{% set n.x = n.x ~ n.x %}"
    "{% endfor %}"
)
PADS = "{{ '%3000000000d' % 1 }}"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "MAX_SECONDS", 0.3)
    for place in (module, tokenize_pool):
        monkeypatch.setattr(place, "MAX_GROWTH", 1 << 27)


def only_for(word, hostile):
    """A template that is hostile to conversations with this word in the first question."""
    return "{% if '" + word + "' in messages[0].content %}" + hostile + "{% endif %}" + CHATML


@pytest.mark.parametrize("hostile", [LOOPS, GROWS, DOUBLES, PADS])
def test_one_that_is_hostile_to_every_conversation_is_a_setting_that_cannot_work(hostile):
    with pytest.raises(
        ConfigError, match=r"tokenizer.chat_template: one short question takes more"
    ):
        Renderer(with_template(hostile + CHATML))


def test_one_that_is_hostile_to_every_answer_is_one_as_well():
    with pytest.raises(ConfigError, match="one short question takes more"):
        Renderer(with_template("{% if messages[1:] %}" + GROWS + "{% endif %}" + CHATML))


@pytest.mark.parametrize("hostile", [LOOPS, GROWS, DOUBLES, PADS])
def test_one_that_is_hostile_to_one_conversation_makes_it_a_bad_record(hostile):
    tokenise = _Tokenise(with_template(only_for("bomb", hostile)), Rendering())
    items = [
        Item(
            Conversation([Message("user", text), Message("assistant", "A")]),
            f"chats.json record {number}",
            Origin(number, number, 0),
        )
        for number, text in enumerate(("fine", "a bomb", "fine too"), start=1)
    ]
    result = tokenise(items)
    assert result.rows.num_rows == 2
    ((reason, sentence),) = result.refused
    assert reason == "template_too_expensive"
    assert sentence.startswith("chats.json record 2: the chat template takes more than")


def test_a_text_that_is_too_long_is_refused(monkeypatch):
    monkeypatch.setattr(module, "MAX_CHARACTERS", 1000)
    renderer = Renderer(with_template(CHATML))
    conversation = Conversation([Message("user", "x" * 2000), Message("assistant", "A")])
    with pytest.raises(TemplateRefused, match="more than 1,000 characters"):
        renderer.render(conversation)


@pytest.mark.parametrize(
    "broken",
    ["{{ 1 / 0 }}", "{{ messages[99].content }}", "{{ messages.no.such }}"],
)
def test_whatever_a_template_raises_is_a_refusal(broken):
    renderer = Renderer(with_template(only_for("bomb", broken)))
    conversation = Conversation([Message("user", "a bomb"), Message("assistant", "A")])
    with pytest.raises(TemplateRefused, match="the chat template refuses the conversation"):
        renderer.render(conversation)


TURN = "{{ m.role + ': ' + m.content + eos_token }}"
EACH = "{% for m in messages %}" + TURN + "{% endfor %}"
ASKS = "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
MARKED = "{% generation %}" + TURN + "{% endgeneration %}"


@pytest.mark.parametrize(
    "template",
    [
        "{% generation %}" + EACH + "{% endgeneration %}" + ASKS,
        EACH.replace(
            TURN, "{% if m.role == 'user' %}" + MARKED + "{% else %}" + TURN + "{% endif %}"
        )
        + ASKS,
        EACH.replace("in messages", "in messages | reverse"),
        EACH.replace(
            TURN, TURN + "{% if m.role == 'assistant' %}{{ messages[0].content }}{% endif %}"
        )
        + ASKS,
    ],
    ids=["all is marked", "questions are marked", "in reverse", "the question again"],
)
def test_a_template_that_would_teach_a_question_is_refused(template):
    renderer = Renderer(with_template(template))
    conversation = Conversation([Message("user", "What?"), Message("assistant", "That.")])
    with pytest.raises(TemplateRefused, match=r"puts .*into the place of an answer"):
        renderer.render(conversation)
