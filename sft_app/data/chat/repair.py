"""Conversations that chat templates are not made for: one policy each, every use counted.

| what | policy | counted as |
|---|---|---|
| a message without text and without a tool call | the message is left out | blank_message_removed |
| an unknown role | the conversation is left out | unknown_role |
| a system message after the first place | joins the next user message | later_system_joined_user |
| two messages of one role in a row | joined by a blank line | same_role_joined |
| answers before the first question | those messages are left out | leading_answer_removed |
| questions after the last answer | those messages are left out | trailing_question_removed |
| no question and answer after that | the conversation is left out | no_question_and_answer |
| no message at all | the conversation is left out | empty |

Tool messages may follow each other, and an assistant message with tool calls is never joined.
"""

from collections import Counter
from dataclasses import replace

from sft_app.data.chat.conversation import Conversation, Message

KNOWN_ROLES = ("system", "user", "assistant", "tool")


def repair(conversation: Conversation) -> tuple[Conversation | None, Counter[str]]:
    """Apply the policies; the conversation is None where it is left out.

    The counter has each policy at most once: it counts conversations, not messages.
    """
    applied: Counter[str] = Counter()
    if not conversation.messages:
        return None, Counter(empty=1)
    if any(m.role not in KNOWN_ROLES for m in conversation.messages):
        return None, Counter(unknown_role=1)

    messages = [m for m in conversation.messages if not _is_blank(m)]
    _note(applied, "blank_message_removed", len(messages) < len(conversation.messages))

    joined = _join_later_system(messages)
    _note(applied, "later_system_joined_user", len(joined) < len(messages))
    messages = joined

    joined = _join_same_role(messages)
    _note(applied, "same_role_joined", len(joined) < len(messages))
    messages = joined

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
    return not message.content.strip() and not message.extra.get("tool_calls")


def _split_system(messages: list[Message]) -> tuple[list[Message], list[Message]]:
    if messages and messages[0].role == "system":
        return messages[:1], messages[1:]
    return [], messages


def _join_later_system(messages: list[Message]) -> list[Message]:
    result: list[Message] = []
    waiting: list[str] = []
    for index, message in enumerate(messages):
        if message.role == "system" and index > 0:
            waiting.append(message.content)
        elif message.role == "user" and waiting:
            result.append(replace(message, content="\n\n".join([*waiting, message.content])))
            waiting = []
        else:
            result.append(message)
    return result


def _join_same_role(messages: list[Message]) -> list[Message]:
    result: list[Message] = []
    for message in messages:
        previous = result[-1] if result else None
        if (
            previous is not None
            and previous.role == message.role
            and message.role != "tool"
            and not previous.extra.get("tool_calls")
            and not message.extra.get("tool_calls")
        ):
            result[-1] = replace(
                previous,
                content=f"{previous.content}\n\n{message.content}",
                weight=min(previous.weight, message.weight),
            )
        else:
            result.append(message)
    return result
