"""The settings that are suggested for a record of unknown shape are pasted, and read it."""

import shlex
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from sft_app.config.overrides.read_overrides import read_overrides
from sft_app.config.schema.data import DataFormat
from sft_app.data.chat.conversation import Conversation, Passage
from sft_app.data.parse.field_names import FieldNames
from sft_app.data.parse.formats import detect, normalise
from sft_app.data.parse.suggest_columns import suggest

Q, A = "What is a colour?", "Blue is one."


def read_with(suggestion: str, record: Any) -> Conversation | Passage:
    """Read the record with the suggested words, through a shell's and Hydra's eyes."""
    words = read_overrides(shlex.split(suggestion))
    overrides = OverridesParser.create().parse_overrides([word.lstrip("+") for word in words])
    settings: dict[str, Any] = {override.key_or_group: override.value() for override in overrides}
    names = FieldNames(
        {str(k): str(v) for k, v in settings.get("data.columns", {}).items()},
        {str(k): str(v) for k, v in settings.get("data.roles", {}).items()},
    )
    format = detect(record, names)
    assert format is not None
    return normalise(record, format, names)


@pytest.mark.parametrize(
    "record",
    [
        {"payload": {"turns": [{"who": "human", "said": Q}, {"who": "bot", "said": A}]}},
        {"a": {"b": {"list": [{"role": "user", "content": Q}, {"role": "ai", "content": A}]}}},
        {"tree": [{"author": {"role": "user"}, "content": {"parts": [Q]}},
                  {"author": {"role": "assistant"}, "content": {"parts": [A]}}]},
        {"id": "0", "data": [Q, A]},
        {"dialog": [[Q, A]]},
        {"log": {"from": ["human", "gpt"], "value": [Q, A]}},
        {"turns": [{"user": Q, "assistant": A}]},
        {"dialogue": f'[{{"speaker": "Tom", "line": "{Q}"}}, {{"speaker": "Ann", "line": "{A}"}}]'},
        {"chat log": [{"user name": "customer", "msg": Q}, {"user name": "agent", "msg": A}]},
        {"User Question": Q, "Bot's Answer": A, "Category": "colours"},
        {"userPrompt": Q, "modelReply": A, "score": 3},
        {"q": Q, "a": A},
        {"problem": Q, "solutions": [A, "Red is another."]},
        {"question": Q, "answers": {"text": [A], "answer_start": [0]}},
        {"Frage": Q, "Antwort": A, "id": "x1", "lang": "de"},
        {"a.b": Q, "c.d": A},
        {"0": Q, "1": A},
        {"translation": {"en": Q, "de": A}},
    ],
)  # fmt: skip
def test_what_is_suggested_reads_the_record(record: dict[str, Any]) -> None:
    suggestion = suggest(record)
    assert suggestion is not None
    read = read_with(suggestion, record)
    assert isinstance(read, Conversation)
    assert [(m.role, m.content) for m in read.messages] == [("user", Q), ("assistant", A)]


def test_a_lone_text_is_a_document() -> None:
    suggestion = suggest({"doc": "A whole page.", "id": "7"})
    assert suggestion is not None
    assert read_with(suggestion, {"doc": "A whole page.", "id": "7"}) == Passage(
        "", "A whole page."
    )


def test_a_text_that_only_begins_as_json_is_a_text() -> None:
    suggestion = suggest({"doc": "{no JSON"})
    assert suggestion is not None
    assert read_with(suggestion, {"doc": "{no JSON"}) == Passage("", "{no JSON")


@pytest.mark.parametrize(
    "record", [{"label": 1}, {}, [], "text", None, {"x": {"y": []}}, {"x": ""}]
)
def test_nothing_is_suggested_where_nothing_is_said(record: Any) -> None:
    assert suggest(record) is None


def test_a_format_that_is_set_is_the_one_that_is_tried() -> None:
    record = {"payload": {"turns": [{"role": "user", "content": Q}]}}
    assert suggest(record, DataFormat.alpaca) is None
