"""Every format to the same conversation."""

import json
from typing import Any

import pytest

from sft_app.config.schema.data import DataFormat
from sft_app.data.chat.conversation import Conversation, Message, Passage
from sft_app.data.chat.formats import NotThisFormat, detect, normalise


def conversation_of(record: dict[str, Any], format: DataFormat) -> Conversation:
    """The record as a conversation; a passage is a failure."""
    content = normalise(record, format)
    assert isinstance(content, Conversation)
    return content


EXPECTED = Conversation([Message("user", "Q"), Message("assistant", "A")])

SAME = {
    "sharegpt": (
        DataFormat.sharegpt,
        {
            "id": "1",
            "conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}],
        },
    ),
    "sharegpt's other names": (
        DataFormat.sharegpt,
        {"conversation": [{"from": "User", "value": "Q"}, {"from": "ChatGPT", "value": "A"}]},
    ),
    "messages": (
        DataFormat.messages,
        {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]},
    ),
    "messages under conversations": (
        DataFormat.messages,
        {
            "conversations": [
                {"role": "user", "content": "Q"},
                {"role": "assistant", "content": "A"},
            ]
        },
    ),
    "messages of parts": (
        DataFormat.messages,
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Q"}]},
                {"role": "assistant", "content": [{"type": "text", "text": "A"}]},
            ]
        },
    ),
    "alpaca": (DataFormat.alpaca, {"instruction": "Q", "input": "", "output": "A"}),
    "alpaca of a table": (DataFormat.alpaca, {"instruction": "Q", "input": None, "output": "A"}),
}


@pytest.mark.parametrize(("format", "record"), SAME.values(), ids=SAME.keys())
def test_records_of_all_formats_say_the_same(format, record):
    assert detect(record) is format
    assert normalise(record, format) == EXPECTED


def test_alpaca_puts_the_input_below_the_instruction_and_history_before():
    record = {
        "instruction": "Q",
        "input": "I",
        "output": "A",
        "system": "S",
        "history": [["a", "b"]],
    }
    assert conversation_of(record, DataFormat.alpaca).messages == [
        Message("system", "S"),
        Message("user", "a"),
        Message("assistant", "b"),
        Message("user", "Q\n\nI"),
        Message("assistant", "A"),
    ]


def test_prompt_and_completion_are_read_and_learned_without_a_template():
    record = {"prompt": "P", "completion": "C"}
    assert detect(record) is DataFormat.prompt_completion
    assert normalise(record, DataFormat.prompt_completion) == Passage("P", "C")


def test_prompt_and_completion_of_messages_learn_only_the_completion():
    record = {
        "prompt": [
            {"role": "user", "content": "Q"},
            {"role": "assistant", "content": "old"},
            {"role": "user", "content": "R"},
        ],
        "completion": [{"role": "assistant", "content": "A"}],
    }
    messages = conversation_of(record, DataFormat.prompt_completion).messages
    assert [m.weight for m in messages if m.role == "assistant"] == [0.0, 1.0]


def test_plain_text_is_learned_whole():
    assert detect({"text": "T"}) is DataFormat.text
    assert normalise({"text": "T"}, DataFormat.text) == Passage("", "T")


CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
SCHEMA = {"type": "function", "function": {"name": "add", "parameters": {}}}


@pytest.mark.parametrize("arguments", [{"a": 1}, '{"a": 1}'], ids=["object", "OpenAI's string"])
def test_tool_calls_reach_the_template_with_arguments_as_an_object(arguments):
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": arguments}}
    record = {
        "tools": [SCHEMA],
        "messages": [
            {"role": "user", "content": "Q"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "2"},
            {"role": "assistant", "content": "A"},
        ],
    }
    conversation = conversation_of(record, DataFormat.messages)
    assert conversation.tools == [SCHEMA]
    assert conversation.messages[1].content == ""
    assert conversation.messages[1].extra == {"tool_calls": [CALL | {"id": "c1"}]}
    assert conversation.messages[2].extra == {"tool_call_id": "c1"}


def test_sharegpt_function_calls_and_schemas_in_json_text():
    record = {
        "tools": json.dumps([SCHEMA["function"]]),
        "system": "S",
        "conversations": [
            {"from": "human", "value": "Q"},
            {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'},
            {"from": "observation", "value": "2"},
            {"from": "gpt", "value": "A"},
        ],
    }
    conversation = conversation_of(record, DataFormat.sharegpt)
    assert conversation.tools == [SCHEMA]
    assert [m.role for m in conversation.messages] == [
        "system",
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert conversation.messages[2].extra == {"tool_calls": [CALL]}


def test_weights_of_messages():
    record = {
        "messages": [
            {"role": "user", "content": "Q"},
            {"role": "assistant", "content": "A", "weight": 0.5},
            {"role": "user", "content": "Q"},
            {"role": "assistant", "content": "A", "train": False},
        ]
    }
    messages = conversation_of(record, DataFormat.messages).messages
    assert [m.weight for m in messages] == [1, 0.5, 1, 0]


@pytest.mark.parametrize(
    ("record", "format", "message"),
    [
        ([1], DataFormat.sharegpt, "expected an object, found list"),
        ({"conversations": "x"}, DataFormat.sharegpt, "expected a list under"),
        ({"conversations": [{"value": "x"}]}, DataFormat.sharegpt, "turns with text under from"),
        ({"conversations": [{"from": "gpt", "value": 3}]}, DataFormat.sharegpt, "found int"),
        (
            {"messages": [{"role": "user", "content": [{"image": "x"}]}]},
            DataFormat.messages,
            "list",
        ),
        ({"instruction": "x"}, DataFormat.alpaca, "expected text under output"),
        ({"prompt": "x", "completion": 1}, DataFormat.prompt_completion, "under completion"),
        ({"text": None}, DataFormat.text, "expected text under text"),
    ],
)
def test_what_a_format_expects_is_said(record, format, message):
    with pytest.raises(NotThisFormat, match=message):
        normalise(record, format)


def test_a_record_of_no_known_format():
    with pytest.raises(NotThisFormat, match="found the keys body, title"):
        detect({"body": "x", "title": "y"})
