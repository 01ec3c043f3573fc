"""The settings that read a record in which nothing was recognised: tried, then suggested."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from sft_app.config.schema.data import DataFormat
from sft_app.data.chat.conversation import Conversation
from sft_app.data.parse.field_names import ROLES, FieldNames, NotThisFormat, at_path
from sft_app.data.parse.formats import detect, list_of, normalise
from sft_app.records.paste_lines import override_value, shell_line

DEEPEST = 4
"""Objects within objects that are looked into."""
_QUESTIONS = (
    "instruction question query prompt input user human request utterance problem task ask "
    "asked q source src title customer message statement frage pregunta pergunta domanda "
    "вопрос 问题 問題"
)
_ANSWERS = (
    "output response answer completion assistant gpt bot reply solution target tgt chosen a "
    "model agent label summary ai replies generated result antwort respuesta resposta "
    "risposta réponse ответ 回答 答案"
)
BESIDE = (
    "id uuid guid key hash url link date time timestamp lang language locale category type "
    "tag tags topic split version license author meta file path name"
)
"""What is about a record, and no part of what is said."""
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")


def suggest(record: Any, format: DataFormat = DataFormat.auto) -> str | None:
    """Return the override of data.columns, and of data.roles where speakers are unknown, that reads
    `record`; None where none was found.
    """
    for columns in _candidates(record):
        unknown = _unknown_speakers(record, columns)
        roles = {name: ("user", "assistant")[n % 2] for n, name in enumerate(unknown)}
        if _is_read(record, format, FieldNames(columns, roles)):
            settings = {"data.columns": columns, "data.roles": roles}
            words = [f"{key}={_mapping(value)}" for key, value in settings.items() if value]
            return shell_line(*words)
    return None


def _mapping(value: dict[str, str]) -> str:
    inside = ", ".join(f"{override_value(k)}: {override_value(v)}" for k, v in value.items())
    return f"{{{inside}}}"


def _is_read(record: Any, format: DataFormat, names: FieldNames) -> bool:
    try:
        found = detect(record, names) if format is DataFormat.auto else format
        content = normalise(record, found, names) if found is not None else None
    except (NotThisFormat, ValueError, TypeError):
        return False
    if isinstance(content, Conversation):
        said = {message.role for message in content.messages if message.content.strip()}
        return {"user", "assistant"} <= said
    return content is not None and bool(content.completion.strip())


def _candidates(record: Any) -> Iterator[dict[str, str]]:
    """Yield mappings that may read the record: turns first, then pairs, then a lone text."""
    leaves = list(_leaves(record))
    lists = {path: turns for path, value in leaves if (turns := _list(value))}
    for path, turns in lists.items():
        if all(isinstance(turn, dict) for turn in turns):
            yield {"messages": path}
            yield from ({"messages": path} | names for names in _names_in(turns))
    texts = [path for path, value in leaves if _is_text(value)]
    asked = [path for path in texts if _words(path) & set(_QUESTIONS.split())]
    answered = [
        path for path in texts if _words(path) & set(_ANSWERS.split()) and path not in asked[:1]
    ]
    yield from _pairs(asked, answered)
    yield from ({"messages": path} for path in lists if not _words(path) & set(_ANSWERS.split()))
    said = [path for path in texts if not _words(path) & set(BESIDE.split())]
    if len(said) == 2:
        yield from _pairs(asked, said)
        yield from _pairs(said, answered)
        yield from _pairs(said[:1], said[1:])
    if len(said) == 1:
        yield {"text": said[0]}


def _pairs(asked: Sequence[str], answered: Sequence[str]) -> Iterator[dict[str, str]]:
    yield from (
        {"instruction": question, "output": answer}
        for question in asked
        for answer in answered
        if question != answer
    )


def _names_in(turns: Sequence[dict[str, Any]]) -> Iterator[dict[str, str]]:
    """Yield where turns may hold speaker and text: what repeats, or names roles; what is long."""
    texts = {
        path: [str(value) for turn in turns if (value := at_path(turn, path)) is not None]
        for path, leaf in _leaves(turns[0])
        if _is_text(leaf)
    }
    speakers = sorted(texts, key=lambda path: (not _are_roles(texts[path]), len(set(texts[path]))))
    for speaker in speakers:
        others = [path for path in texts if path != speaker]
        for text in sorted(others, key=lambda path: -sum(map(len, texts[path]))):
            names = {"role": speaker, "content": text}
            yield {ours: theirs for ours, theirs in names.items() if ours != theirs}


def _are_roles(names: Sequence[str]) -> bool:
    return all(name.strip().lower() in ROLES for name in names)


def _list(value: Any) -> list[Any] | None:
    """What `list_of` finds; None for a text that only begins as JSON does."""
    try:
        return list_of(value, "a column")
    except NotThisFormat:
        return None


def _unknown_speakers(record: Any, columns: dict[str, str]) -> list[str]:
    if "messages" not in columns:
        return []
    turns = _list(at_path(record, columns["messages"])) or []
    speakers = [str(at_path(turn, columns.get("role", "role"))) for turn in turns]
    names = list(dict.fromkeys(speakers))
    unknown = [name for name in names if name.strip().lower() not in ROLES]
    return unknown if len(unknown) == len(names) == 2 else []


def _leaves(value: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield all that stands in an object, with its path; of a list, itself and its first place."""
    if isinstance(value, dict) and depth < DEEPEST:
        for key, inside in value.items():
            name = f"{path}.{key}" if path else str(key)
            yield name, inside
            yield from _leaves(inside, name, depth + 1)
    elif isinstance(value, list) and path and value and not isinstance(value[0], dict):
        yield f"{path}.0", value[0]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _words(path: str) -> set[str]:
    """The words of a field's name, as they are and without a plural's s."""
    name = path.removesuffix(".0").rpartition(".")[2]
    words = {word.lower() for word in [name, *_WORD.findall(name)]}
    return words | {word.removesuffix("s") for word in words}
