"""Conversations that chat templates are not made for: one policy each, every use counted.

| what | policy | counted as |
|---|---|---|
| a message that says nothing | the message is left out | blank_message_removed |
| a system message behind another turn | joins the next user message | later_system_joined_user |
| a system message after the last question | is left out | trailing_system_removed |
| two messages of one role in a row | joined by a blank line | same_role_joined |
| results in another order than their calls | sorted by the calls' ids | tool_results_sorted |
| answers before the first question | those messages are left out | leading_answer_removed |
| questions after the last answer | those messages are left out | trailing_question_removed |
| no question and answer after that | the conversation is left out | no_question_and_answer |
| no message at all | the conversation is left out | empty |

Tool results may follow each other and may be empty. Answers that are joined keep their weights;
calls of tools that follow each other become the calls of one turn, and a text before a call belongs
to its turn. A text after a call stays a turn of its own.
"""

from collections import Counter
from dataclasses import replace
from typing import Any

from sft_app.data.chat.conversation import Conversation, Message

_BETWEEN = "\n\n"


def repair(conversation: Conversation) -> tuple[Conversation | None, Counter[str]]:
    """Apply the policies; the conversation is None where it is left out.

    The counter has each policy at most once: it counts conversations, not messages.
    """
    applied: Counter[str] = Counter()
    if not conversation.messages:
        return None, Counter(empty=1)

    messages = [m for m in conversation.messages if not _is_blank(m)]
    _note(applied, "blank_message_removed", len(messages) < len(conversation.messages))

    joined, waiting = _join_later_system(messages)
    _note(applied, "later_system_joined_user", len(joined) + len(waiting) < len(messages))
    _note(applied, "trailing_system_removed", bool(waiting))
    messages = joined

    joined = _join_same_role(messages)
    _note(applied, "same_role_joined", len(joined) < len(messages))
    messages = joined

    ordered = _in_order_of_calls(messages)
    _note(applied, "tool_results_sorted", ordered != messages)
    messages = ordered

    system, turns = _split_system(messages)
    first = next((i for i, m in enumerate(turns) if m.role == "user"), len(turns))
    _note(applied, "leading_answer_removed", first > 0)
    turns = turns[first:]

    last = max((i for i, m in enumerate(turns) if m.role == "assistant"), default=-1)
    if last < 0:
        applied["no_question_and_answer"] = 1
        return None, applied
    _note(applied, "trailing_question_removed", last + 1 < len(turns))
    return replace(conversation, messages=system + turns[: last + 1]), applied


def _note(applied: Counter[str], policy: str, happened: bool) -> None:
    if happened:
        applied[policy] = 1


def _is_blank(message: Message) -> bool:
    if message.role == "tool" or message.content.strip():
        return False
    return not (message.extra.get("tool_calls") or message.extra.get("reasoning_content"))


def _split_system(messages: list[Message]) -> tuple[list[Message], list[Message]]:
    if messages and messages[0].role == "system":
        return messages[:1], messages[1:]
    return [], messages


def _join_later_system(messages: list[Message]) -> tuple[list[Message], list[str]]:
    """The messages, and the system prompts that no question follows."""
    result: list[Message] = []
    waiting: list[str] = []
    for message in messages:
        is_first = all(earlier.role == "system" for earlier in result)  # or one behind the first
        if message.role == "system" and not is_first:
            waiting.append(message.content)
        elif message.role == "user" and waiting:
            result.append(replace(message, content=_BETWEEN.join([*waiting, message.content])))
            waiting = []
        else:
            result.append(message)
    return result, waiting


def _in_order_of_calls(messages: list[Message]) -> list[Message]:
    """Results stand in the order of their calls: many templates show no ids to tell them by."""
    result: list[Message] = []
    calls: list[Any] = []
    for message in messages:
        if message.role != "tool":
            calls = [call.get("id") for call in message.extra.get("tool_calls", ())]
        result.append(message)
        waiting = result[len(result) - len(calls) :] if len(calls) > 1 else []
        ids = [m.extra.get("tool_call_id") for m in waiting if m.role == "tool"]
        if len(set(ids)) == len(calls) and set(ids) == set(calls):
            result[len(result) - len(calls) :] = sorted(
                waiting, key=lambda m: calls.index(m.extra["tool_call_id"])
            )
    return result


def _join_same_role(messages: list[Message]) -> list[Message]:
    result: list[Message] = []
    for message in messages:
        if result and _belong_together(result[-1], message):
            result[-1] = _joined(result[-1], message)
        else:
            result.append(message)
    return result


def _belong_together(first: Message, second: Message) -> bool:
    if first.role != second.role or first.role == "tool":
        return False
    if first.extra.get("tool_calls"):
        return bool(second.extra.get("tool_calls")) and not second.content.strip()
    return True


def _joined(first: Message, second: Message) -> Message:
    contents = [text for text in (first.content, second.content) if text.strip()]
    extra = {**first.extra, **second.extra}
    calls = [*first.extra.get("tool_calls", ()), *second.extra.get("tool_calls", ())]
    if calls:
        extra["tool_calls"] = calls
    thoughts = [m.extra["reasoning_content"] for m in (first, second) if _reasons(m)]
    if thoughts:
        extra["reasoning_content"] = _BETWEEN.join(thoughts)
    joined = replace(first, content=_BETWEEN.join(contents), extra=extra)
    if first.extra.get("tool_calls"):
        # Calls of one turn are one text to the template: what is not to be learned stays unlearned.
        return replace(joined, weight=min(first.weight, second.weight))
    if first.weight == second.weight and not first.earlier and not second.earlier:
        return joined
    return replace(joined, weight=second.weight, earlier=_earlier(first, second))


def _earlier(first: Message, second: Message) -> tuple[tuple[int, float], ...]:
    """Weights by place; what stands between two answers is learned only if both are."""
    end = len(first.content)
    places = [*first.earlier, (end, first.weight)]
    if not second.content.strip():
        return tuple(places)
    start = end + len(_BETWEEN) if end else 0
    next_weight = second.earlier[0][1] if second.earlier else second.weight
    places.append((start, min(first.weight, next_weight)))
    places += [(start + stop, weight) for stop, weight in second.earlier]
    return tuple(places)


def _reasons(message: Message) -> bool:
    return bool(message.extra.get("reasoning_content"))
