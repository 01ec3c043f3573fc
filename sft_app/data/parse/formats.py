"""Records of the usual chat formats, normalised to conversations.

| format | record |
|---|---|
| sharegpt, messages | `conversations` or `messages`: turns with `from` or `role`, and `value` or \
`content`; `system`, `tools` beside them |
| alpaca | `instruction`, `input` (may be empty), `output`, or another question and answer; \
`system`, `history` beside them |
| prompt_completion | `prompt` and `completion`: texts, or lists of messages |
| text | `text`: a document, all of it supervised |

A turn may carry `weight` (its loss weight; 0 = no labels), or `train`, `training`, `trainable`,
`loss` or `loss_mask` (true, false), or `masked` (the other way round); so may a record, for all of
its answers.
"""

from typing import Any

from sft_app.config.schema.data import DataFormat
from sft_app.data.chat.conversation import Conversation, Message, Passage
from sft_app.data.chat.turns import (
    REASONING_KEYS,
    SPEAKER_KEYS,
    WEIGHT_KEYS,
    by_speaker,
    in_turn,
    plain_text,
    read_turns,
    read_weight,
    refuse_media,
)
from sft_app.data.parse.field_names import FieldNames, NotThisFormat
from sft_app.data.parse.tool_calls import parse_json, read_tools

_TURNS = ("messages", "conversations", "conversation")
_SYSTEM = ("system", "system_prompt")
_TOOLS = ("tools", "functions")
_QUESTIONS = ("instruction", "question", "query", "prompt", "input")
_ANSWERS = ("output", "response", "answer", "completion")
_CONTEXTS = ("input", "context")
"""What a question is about, beside it."""


def detect(record: Any, names: FieldNames | None = None) -> DataFormat | None:
    """Return the format that a record's keys show; None for one that has no turns to show it.

    Raises NotThisFormat.
    """
    if not isinstance(record, dict):
        raise NotThisFormat(_expected(type(record).__name__))
    names = names or FieldNames()
    record = _renamed(record, names)
    present = set(record)
    turns = _turns(record)
    if turns == []:
        return None
    if turns is not None:
        turns = by_speaker(turns)
        first = names.rename(turns[0]) if isinstance(turns[0], dict) else {}
        return DataFormat.messages if "role" in first else DataFormat.sharegpt
    if {"prompt", "completion"} <= present:
        return DataFormat.prompt_completion
    if _pair(record) is not None:
        return DataFormat.alpaca
    if "text" in present:
        return DataFormat.text
    raise NotThisFormat(_expected("the keys " + (", ".join(map(str, record)) or "(none)")))


def normalise(
    record: Any, format: DataFormat, names: FieldNames | None = None
) -> Conversation | Passage:
    """Return what a record of this format says; `format` must not be auto.

    Raises NotThisFormat.
    """
    if not isinstance(record, dict):
        raise NotThisFormat(f"expected an object, found {type(record).__name__}")
    names = names or FieldNames()
    record = _renamed(record, names)
    refuse_media(record, "the record")
    content = _content(record, format, names)
    names.pass_over(record, {*_keys_read(record, format, content, names), *WEIGHT_KEYS})
    return _weighted(content, read_weight(record, "the record"))


def _keys_read(
    record: dict[str, Any],
    format: DataFormat,
    content: Conversation | Passage,
    names: FieldNames,
) -> tuple[str, ...]:
    """The keys that a record of this format is read from, where it has them."""
    beside = (*_SYSTEM, *(_TOOLS if isinstance(content, Conversation) else _CONTEXTS))
    match format:
        case DataFormat.sharegpt | DataFormat.messages:
            return (*_TURNS, *beside)
        case DataFormat.alpaca:
            pair = tuple(key for key in _pair(record) or () if key)
            about = ("question", "query", "history", *_thoughts(record, names))
            return (*pair, *about, *beside)
        case DataFormat.prompt_completion:
            return ("prompt", "completion", *beside)
        case _:
            return ("text",)


def _renamed(record: dict[str, Any], names: FieldNames) -> dict[str, Any]:
    """The record under our names, without nulls and without what else could be what they name.

    Tables have a column for every key that any of their records has.
    """
    beside = {
        other
        for first, *others in (_TURNS, _SYSTEM)
        if first in names.columns
        for other in others
        if other not in names.columns
    }
    renamed = names.rename(record).items()
    return {key: value for key, value in renamed if value is not None and key not in beside}


def _content(
    record: dict[str, Any], format: DataFormat, names: FieldNames
) -> Conversation | Passage:
    match format:
        case DataFormat.sharegpt | DataFormat.messages:
            return _conversation(record, names)
        case DataFormat.alpaca:
            return _alpaca(record, names)
        case DataFormat.prompt_completion:
            return _prompt_completion(record, names)
        case DataFormat.text:
            return Passage("", _text(record, "text"))
        case DataFormat.auto:
            raise AssertionError("detect() comes first")


def _weighted(content: Conversation | Passage, weight: float) -> Conversation | Passage:
    """The content with the record's weight on all that is supervised in it."""
    parts = content.messages if isinstance(content, Conversation) else [content]
    for part in parts if weight != 1 else ():
        part.weight *= weight
    return content


def _expected(found: str) -> str:
    return (
        "expected an object with conversations, messages, instruction and output (or another pair "
        f"of question and answer), prompt and completion, or text; found {found}; data.columns "
        "says which column is which"
    )


def list_of(value: Any, key: str) -> list[Any] | None:
    """A list, or one that a cell of a table holds as JSON text, or as a list for each key.

    Raises NotThisFormat that names `key` for a text that only begins as JSON does.
    """
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        value = parse_json(value, f"under {key}")
    if isinstance(value, dict) and len(value) > 1:
        columns = list(value.values())
        if all(isinstance(c, list) and len(c) == len(columns[0]) for c in columns):
            value = [dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)]
    return value if isinstance(value, list) else None


def _conversation(record: dict[str, Any], names: FieldNames) -> Conversation:
    turns = _turns(record)
    if turns is None:
        raise NotThisFormat(f"expected a list under {' or '.join(_TURNS)}")
    tools = read_tools(record)
    turns = by_speaker(turns)
    if any(key in names.columns for key in _TURNS):
        turns = in_turn(turns)
    return Conversation(_behind_system(record, read_turns(turns, names, tools)), tools)


def _turns(record: dict[str, Any]) -> list[Any] | None:
    """The record's turns; an empty list where it has a place for them alone, None without one.

    Raises NotThisFormat where there are different turns under two keys, or broken ones under all.
    """
    found: dict[str, list[Any]] = {}
    broken: NotThisFormat | None = None
    for key in _TURNS:
        try:
            turns = list_of(record.get(key), key)
        except NotThisFormat as error:
            broken = broken or error  # a text in brackets beside the turns, or broken turns
            continue
        if turns is not None:
            found[key] = turns
    if broken is not None and not any(found.values()):
        raise broken
    full = {key: turns for key, turns in found.items() if turns}
    first = next(iter(full.values()), None)
    if any(turns != first for turns in full.values()):
        raise NotThisFormat(
            f"found different turns under {' and '.join(full)}: say which with "
            f"'data.columns={{messages: {next(iter(full))}}}'"
        )
    return first if first is not None else next(iter(found.values()), None)


def _system(record: dict[str, Any]) -> list[Message]:
    """The system prompt that stands beside the turns, as a message."""
    texts = {key: plain_text(record[key], key) for key in _SYSTEM if record.get(key)}
    said = {text for text in texts.values() if text.strip()}
    if len(said) > 1:
        raise NotThisFormat(
            f"found different texts under {' and '.join(texts)}: say which with "
            f"'data.columns={{system: {next(iter(texts))}}}'"
        )
    return [Message("system", text) for text in said]


def _behind_system(record: dict[str, Any], messages: list[Message]) -> list[Message]:
    """The messages behind the record's system prompt, where they do not begin with it anyway."""
    system = _system(record)
    first = next((m.content for m in messages[:1] if m.role == "system"), "")
    is_same = any(message.content.strip() == first.strip() for message in system)
    return messages if is_same else [*system, *messages]


def _pair(record: dict[str, Any]) -> tuple[str, str | None, str] | None:
    """The keys of question, what it is about, and answer; None where the record has no pair."""
    present = [key for key, value in record.items() if value is not None]
    if {"instruction", "output"} <= set(present):
        question, answer = "instruction", "output"
    else:
        asked = [key for key in _QUESTIONS if key in present]
        asked = [key for key in asked if key != "input"] or asked
        answered = [key for key in _ANSWERS if key in present]
        if not asked or not answered:
            return None
        for keys, ours in ((asked, "instruction"), (answered, "output")):
            if len(keys) > 1:
                raise NotThisFormat(
                    f"expected one of {' and '.join(keys)}: say which with "
                    f"'data.columns={{{ours}: {keys[0]}}}'"
                )
        question, answer = asked[0], answered[0]
    about = [key for key in _CONTEXTS if key in present and key != question]
    if len(about) > 1:
        raise NotThisFormat("expected one of input and context: say which with data.columns")
    return question, about[0] if about else None, answer


def _alpaca(record: dict[str, Any], names: FieldNames) -> Conversation:
    question_key, about_key, answer_key = _pair(record) or ("instruction", "input", "output")
    question = _text(record, question_key)
    about = record.get(about_key, "") if about_key else ""
    if not isinstance(about, str):
        raise NotThisFormat(f"expected text under {about_key}")
    for key in ("question", "query") if "instruction" not in names.columns else ():
        beside = record.get(key)
        if isinstance(beside, str) and beside.strip() not in question + about:
            raise NotThisFormat(
                f"{question_key} lacks what stands under {key}: 'data.columns={{input: {key}}}' "
                f"puts it below, 'data.columns={{{question_key}: {question_key}}}' leaves it out"
            )
    if about.strip():
        question = f"{question}\n\n{about}" if question.strip() else about
    messages = _system(record)
    history = list_of(record.get("history"), "history")
    if history is None and record.get("history") and str(record["history"]).strip():
        raise NotThisFormat("expected pairs of texts under history")
    for pair in history or []:
        if not isinstance(pair, list) or [type(text) for text in pair] != [str, str]:
            raise NotThisFormat("expected pairs of texts under history")
        messages += [Message("user", pair[0]), Message("assistant", pair[1])]
    answer = Message("assistant", _text(record, answer_key))
    thoughts = set(_thoughts(record, names).values())
    if len(thoughts) > 1:
        raise NotThisFormat("the record has two different texts of reasoning: keep one")
    for thought in thoughts:
        if thought.strip() not in answer.content:
            answer.extra["reasoning_content"] = thought
    return Conversation([*messages, Message("user", question), answer], read_tools(record))


def _prompt_completion(record: dict[str, Any], names: FieldNames) -> Conversation | Passage:
    prompt, completion = (_turns_of(record.get(key), names) for key in ("prompt", "completion"))
    if prompt is not None and completion is not None:
        tools = read_tools(record)
        messages = read_turns([*prompt, *completion], names, tools)
        for message in messages[: len(prompt)]:
            message.weight = 0.0
        return Conversation(_behind_system(record, messages), tools)
    passage = Passage(_text(record, "prompt"), _text(record, "completion"))
    for key in (*_SYSTEM, *_CONTEXTS, *_thoughts(record, names)):
        beside = record.get(key)
        said = passage.prompt + passage.completion if key in REASONING_KEYS else passage.prompt
        if isinstance(beside, str) and beside.strip() not in said:
            raise NotThisFormat(
                "prompt and completion are texts outside any chat template, and prompt lacks what "
                f"stands under {key}: 'data.columns={{instruction: prompt, output: completion}}' "
                f"makes a chat of all three; else take {key} out of the data"
            )
    return passage


def _thoughts(record: dict[str, Any], names: FieldNames) -> dict[str, str]:
    """What was thought before an answer that stands in a column of its own.

    A single word is none (`reasoning: on`), and who names columns takes those that they name.
    """
    keys = [key for key in REASONING_KEYS if not names.columns or key in names.columns]
    texts = {key: record[key] for key in keys if isinstance(record.get(key), str)}
    return {key: text for key, text in texts.items() if len(text.split()) > 1}


def _turns_of(value: Any, names: FieldNames) -> list[Any] | None:
    """A list of messages, or one that a cell of a table holds as JSON text; None for a text."""
    if isinstance(value, list):
        return value
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return None
    try:
        turns = parse_json(value, "under prompt or completion")
    except NotThisFormat:
        return None  # [INST] and the like
    are_turns = isinstance(turns, list) and bool(turns) and all(_is_turn(t, names) for t in turns)
    return turns if are_turns else None


def _is_turn(value: Any, names: FieldNames) -> bool:
    if not isinstance(value, dict):
        return False
    turn = names.rename(value)
    return any(isinstance(turn.get(key), str) for key in SPEAKER_KEYS)


def _text(record: dict[str, Any], key: str) -> str:
    if not isinstance(record.get(key), str):
        raise NotThisFormat(f"expected text under {key}")
    return str(record[key])
