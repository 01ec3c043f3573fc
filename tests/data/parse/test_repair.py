"""Odd conversations: one policy each, each counted."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_app.config.schema.data import ROLE_NAMES
from sft_app.data.chat.conversation import Conversation, Message
from sft_app.data.parse.repair import repair

SHORT = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}


def conversation(text):
    """'u:Hi a:Yo' as messages."""
    pairs = [part.split(":") for part in text.split()]
    return Conversation([Message(SHORT[role], content) for role, content in pairs])


def as_text(repaired):
    names = {role: letter for letter, role in SHORT.items()}
    return " ".join(f"{names[m.role]}:{m.content}" for m in repaired.messages)


@pytest.mark.parametrize(
    ("before", "after", "policy"),
    [
        ("u:Q a:A", "u:Q a:A", None),
        ("s:S u:Q a:A", "s:S u:Q a:A", None),
        ("a:B u:Q a:A", "u:Q a:A", "leading_answer_removed"),
        ("s:S a:B u:Q a:A", "s:S u:Q a:A", "leading_answer_removed"),
        ("u:Q a:A u:R", "u:Q a:A", "trailing_question_removed"),
        ("u:Q u:R a:A", "u:Q\n\nR a:A", "same_role_joined"),
        ("u:Q a:A a:B", "u:Q a:A\n\nB", "same_role_joined"),
        ("u:Q a:A s:S u:R a:B", "u:Q a:A u:S\n\nR a:B", "later_system_joined_user"),
        ("s:S s:D u:Q a:A", "s:S\n\nD u:Q a:A", "same_role_joined"),
        ("s:S s:D u:Q a:A s:E u:R a:B", "s:S\n\nD u:Q a:A u:E\n\nR a:B", "same_role_joined"),
        ("u:Q a: u:R a:A", "u:Q\n\nR a:A", "blank_message_removed"),
        ("u:Q a:A t:T t:T a:B", "u:Q a:A t:T t:T a:B", None),
        ("u:Q a:A t: a:B", "u:Q a:A t: a:B", None),
        ("u:Q a:A s:S", "u:Q a:A", "trailing_system_removed"),
    ],
)
def test_policies_that_keep_the_conversation(before, after, policy):
    repaired, applied = repair(conversation(before))
    assert as_text(repaired) == after
    if policy is None:
        assert not applied
    else:
        assert applied[policy] == 1


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("", "empty"),
        ("a:A", "no_question_and_answer"),
        ("u:Q", "no_question_and_answer"),
        ("s:S", "no_question_and_answer"),
        ("u:Q a:", "no_question_and_answer"),
    ],
)
def test_policies_that_leave_the_conversation_out(text, policy):
    repaired, applied = repair(conversation(text))
    assert repaired is None and applied[policy] == 1


def test_a_blank_message_with_a_tool_call_is_kept():
    call = Message("assistant", "", extra={"tool_calls": [{"function": {"name": "f"}}]})
    messages = [Message("user", "Q"), call, Message("tool", "1"), Message("assistant", "A")]
    repaired, _ = repair(Conversation(messages))
    assert repaired is not None and repaired.messages == messages


def repaired(*messages):
    conversation, _ = repair(Conversation(list(messages)))
    assert conversation is not None
    return conversation


def weights_by_character(message):
    ends = [*message.earlier, (len(message.content), message.weight)]
    weights, at = [], 0
    for end, weight in ends:
        weights += [weight] * (end - at)
        at = end
    return weights


def test_joined_answers_keep_their_weights_and_what_is_between_is_learned_only_if_both_are():
    parts = (("A", 0), ("BB", 1), ("C", 2))
    answers = [Message("assistant", text, weight) for text, weight in parts]
    (_, joined) = repaired(Message("user", "Q"), *answers).messages
    assert joined.content == "A\n\nBB\n\nC"
    assert weights_by_character(joined) == [0, 0, 0, 1, 1, 1, 1, 2]
    assert joined.is_supervised


def called(name, content="", weight=1.0):
    calls = [{"type": "function", "function": {"name": name, "arguments": {}}}]
    return Message("assistant", content, weight, {"tool_calls": calls})


def test_calls_in_a_row_are_calls_of_one_turn_and_a_text_before_them_is_its_text():
    messages = [
        Message("user", "Q"),
        Message("assistant", "Let me look."),
        called("f"),
        called("g"),
    ]
    messages += [Message("tool", "1"), Message("tool", "2"), Message("assistant", "A")]
    roles = ["user", "assistant", "tool", "tool", "assistant"]
    conversation = repaired(*messages)
    assert [m.role for m in conversation.messages] == roles
    call = conversation.messages[1]
    assert call.content == "Let me look."
    assert [c["function"]["name"] for c in call.extra["tool_calls"]] == ["f", "g"]


def test_a_call_that_is_not_to_be_learned_is_not_learned_with_another():
    messages = [Message("user", "Q"), called("f"), called("g", weight=0.0)]
    assert not repaired(*messages).messages[1].is_supervised


def test_an_answer_of_reasoning_alone_stays():
    messages = [Message("user", "Q"), Message("assistant", "", extra={"reasoning_content": "hm"})]
    assert repair(Conversation(messages)) == (Conversation(messages), {})


MESSAGES = st.lists(
    st.builds(Message, st.sampled_from(ROLE_NAMES), st.sampled_from(["", " ", "x"])),
    max_size=8,
)


@given(MESSAGES)
def test_whatever_comes_in_templates_get_question_first_and_answer_last(messages):
    repaired, applied = repair(Conversation(messages))
    if repaired is None:
        assert sum(applied.values()) >= 1
        return
    roles = [m.role for m in repaired.messages]
    turns = roles[1:] if roles[0] == "system" else roles
    assert turns[0] == "user" and turns[-1] == "assistant"
    assert "system" not in turns
    assert all(m.content.strip() or m.role == "tool" for m in repaired.messages)
    assert all(a != b or a == "tool" for a, b in pairwise(roles))


@given(MESSAGES)
def test_a_repaired_conversation_needs_no_repair(messages):
    repaired, _ = repair(Conversation(messages))
    if repaired is not None:
        assert repair(repaired) == (repaired, {})


def test_results_stand_in_the_order_of_their_calls():
    """Templates such as Qwen's show no ids: the second result would be read as the first call's."""
    calls = [{"id": name, "function": {"name": name, "arguments": {}}} for name in "abc"]
    results = [Message("tool", f"of {name}", extra={"tool_call_id": name}) for name in "cab"]
    asked = [Message("user", "Q"), Message("assistant", "", extra={"tool_calls": calls})]
    answer = Message("assistant", "A")
    repaired, applied = repair(Conversation([*asked, *results, answer]))
    assert repaired is not None and applied == {"tool_results_sorted": 1}
    assert [m.content for m in repaired.messages[2:]] == ["of a", "of b", "of c", "A"]
    for kept in (sorted(results, key=lambda m: m.content), results[:2], [Message("tool", "x")] * 3):
        repaired, applied = repair(Conversation([*asked, *kept, answer]))
        assert repaired is not None and not applied
        assert repaired.messages == [*asked, *kept, answer]
