"""A conversation of thousands of turns costs as many renderings as one of a hundred."""

from collections.abc import Callable

import pytest

from sft_app.data.chat.answer_places import ASK_FOR_EACH, _by_gaps, find_places
from sft_app.data.chat.conversation import Conversation, Message
from sft_app.data.chat.render import Renderer
from sft_app.data.chat.template import ChatTemplate
from tests.data.templates_of_families import THINKS
from tests.data.tokenizers_for_tests import (
    CHATML_WITH_DEFAULT_SYSTEM,
    REWRITES_HISTORY,
    TEMPLATES,
    WITH_TOOLS,
    with_template,
)


def long_chat(turns, **extra):
    messages = [Message("system", "Be kind.")]
    for number in range(turns // 2):
        messages.append(Message("user", f"question {number}"))
        messages.append(Message("assistant", f" answer {number} ", extra=dict(extra)))
    return Conversation(messages)


def with_calls(turns):
    conversation = long_chat(turns)
    for number, message in enumerate(conversation.messages[2::4]):
        function = {"name": f"f{number}", "arguments": {"n": f"{number}"}}
        message.content, message.extra = "", {"tool_calls": [{"function": function}]}
    return conversation


@pytest.fixture
def renderings(monkeypatch):
    """How often a template is asked."""
    calls: list[int] = []
    original = ChatTemplate.render

    def counting(*args, **kwargs):
        calls.append(1)
        return original(*args, **kwargs)

    monkeypatch.setattr(ChatTemplate, "render", counting)
    return calls


CASES: dict[str, tuple[str, Callable[[int], Conversation]]] = {
    name: (template, long_chat) for name, template in TEMPLATES.items()
}
CASES["calls of tools"] = (WITH_TOOLS, with_calls)


@pytest.mark.parametrize(("template", "make"), CASES.values(), ids=CASES.keys())
def test_places_found_by_gaps_are_those_that_asking_for_each_finds(template, make, monkeypatch):
    asked = ChatTemplate(with_template(template))
    conversation = make(ASK_FOR_EACH + 8)
    text = asked.render(conversation, conversation.messages)
    by_gaps = _by_gaps(asked, conversation, text)
    monkeypatch.setattr("sft_app.data.chat.answer_places.ASK_FOR_EACH", 10_000)
    each = find_places(asked, conversation, text)
    assert each is not None
    if by_gaps is not None:
        assert by_gaps.answers == each.answers and by_gaps.turn_ends == each.turn_ends
        assert each.questions.items() <= by_gaps.questions.items()
    else:
        assert template not in (TEMPLATES["chatml"], TEMPLATES["vicuna"], WITH_TOOLS)


@pytest.mark.parametrize(
    ("template", "make"),
    [
        (TEMPLATES["chatml"], long_chat),
        (TEMPLATES["vicuna"], long_chat),
        (CHATML_WITH_DEFAULT_SYSTEM, long_chat),
        (REWRITES_HISTORY, long_chat),
        (WITH_TOOLS, with_calls),
    ],
    ids=["chatml", "vicuna", "default system", "rewrites history", "calls of tools"],
)
def test_the_number_of_renderings_does_not_grow_with_the_turns(template, make, renderings):
    renderer = Renderer(with_template(template))
    counts = []
    for turns in (100, 600):
        before = len(renderings)
        assert len(renderer.render(make(turns))) == 1
        counts.append(len(renderings) - before)
    assert counts[0] == counts[1] < 60


def test_a_long_conversation_whose_history_is_rewritten_is_noticed():
    conversation = long_chat(ASK_FOR_EACH + 2)
    conversation.messages[2].content = "<think>why</think>because"
    first, *others = Renderer(with_template(THINKS)).render(conversation)
    assert len(others) == len(conversation.messages) // 2 - 1
    assert first.text.endswith("<think>\nwhy\n</think>\n\nbecause<|im_end|>\n")


def reasoned(turns):
    """Every answer has a thought, which the template shows of the last one alone."""
    conversation = long_chat(turns)
    for message in conversation.messages[2::2]:
        message.content = f"<think>why</think>{message.content}"
    return conversation


def test_where_history_is_rewritten_renderings_grow_with_the_answers_alone(renderings):
    """Each answer has a text of its own; places in it are known from the longest."""
    renderer = Renderer(with_template(THINKS))
    counts = []
    for turns in (100, 200):
        before = len(renderings)
        assert len(renderer.render(reasoned(turns))) == turns // 2
        counts.append(len(renderings) - before)
    assert counts[0] < 10 * 50
    assert counts[1] < 2.1 * counts[0]


@pytest.mark.parametrize("template", [THINKS, REWRITES_HISTORY], ids=["thinks", "rewrites"])
def test_questions_known_from_the_longest_are_those_that_asking_for_each_finds(
    template, monkeypatch
):
    conversation = reasoned(24)
    conversation.messages[5].content = "  two lines\n\nwith  spaces "
    conversation.messages[7].content = ""
    known = Renderer(with_template(template)).render(conversation)
    monkeypatch.setattr("sft_app.data.chat.answer_places._common_length", lambda one, other: -1)
    assert Renderer(with_template(template)).render(conversation) == known
    assert len(known[-1].exchanges) == 12
