"""Every format to the same conversation."""

import json
from typing import Any

import pytest

from sft_app.config.schema.data import DataFormat
from sft_app.data.chat.conversation import Conversation, Message, Passage
from sft_app.data.parse.field_names import FieldNames, NotThisFormat
from sft_app.data.parse.formats import detect, normalise


def conversation_of(record: dict[str, Any], format: DataFormat) -> Conversation:
    """The record as a conversation; a passage is a failure."""
    content = normalise(record, format)
    assert isinstance(content, Conversation)
    return content


EXPECTED = Conversation([Message("user", "Q"), Message("assistant", "A")])

EXPECTED_TURNS = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]

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
    "role and value": (
        DataFormat.messages,
        {"conversations": [{"role": "user", "value": "Q"}, {"role": "ai", "value": "A"}]},
    ),
    "other speakers": (
        DataFormat.sharegpt,
        {"conversations": [{"from": "prompter", "value": "Q"}, {"from": "doctor", "value": "A"}]},
    ),
    "JSON in a cell": (
        DataFormat.messages,
        {
            "messages": json.dumps(
                [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
            ),
            "score": "3",
        },
    ),
    "dolly": (
        DataFormat.alpaca,
        {"instruction": "Q", "context": "", "response": "A", "category": "open_qa"},
    ),
    "question and answer": (DataFormat.alpaca, {"question": "Q", "answer": "A"}),
    "query and response": (DataFormat.alpaca, {"query": "Q", "response": "A", "type": "x"}),
    "input and output": (DataFormat.alpaca, {"input": "Q", "output": "A"}),
    "prompt and response": (DataFormat.alpaca, {"prompt": "Q", "response": "A"}),
    "alpaca of a table": (DataFormat.alpaca, {"instruction": "Q", "input": None, "output": "A"}),
}


@pytest.mark.parametrize(("format", "record"), SAME.values(), ids=SAME.keys())
def test_records_of_all_formats_say_the_same(format, record):
    assert detect(record) == format
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


def calls_of(*calls: Any) -> Any:
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "tool_calls": list(calls)}]
    (seen,) = (
        conversation_of({"messages": turns}, DataFormat.messages).messages[1].extra["tool_calls"]
    )
    return seen["function"]


@pytest.mark.parametrize(
    "call",
    [
        {"name": "add", "args": {"a": 1}, "id": "1", "type": "tool_call"},
        {"name": "add", "input": {"a": 1}, "id": "1", "type": "tool_use"},
        {"name": "add", "parameters": {"a": 1}},
        {"name": "add", "kwargs": '{"a": 1}'},
        {"function": {"name": "add"}, "arguments": {"a": 1}},
    ],
    ids=["LangChain", "Anthropic", "Llama", "kwargs", "beside the function"],
)
def test_arguments_of_calls_are_found_under_every_usual_name(call):
    assert calls_of(call) == CALL["function"]


@pytest.mark.parametrize(
    "about", [{}, {"id": "1", "type": "function"}, {"arguments": None}, {"args": []}]
)
def test_a_call_may_have_no_arguments(about):
    assert calls_of({"name": "now", **about}) == {"name": "now", "arguments": {}}


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        (
            {"tool_calls": [{"name": "f", "argumets": {"a": 1}}]},
            r"call of f in turn 2 has no arguments under arguments, .* \(it has argumets\)",
        ),
        (
            {"tool_calls": [{"name": "f", "arguments": {"a": 1}, "input": {"a": 2}}]},
            "call of f in turn 2 has arguments under arguments and input: keep one",
        ),
        (
            {"tool_calls": [{"name": "f"}], "function_call": {"name": "g"}},
            "turn 2 has both tool_calls and function_call",
        ),
        ({"tool_calls": [{"function": "f"}]}, "tool call with name and arguments in turn 2"),
        (
            {"tool_calls": "[{'name': 'f'}]"},
            r"expected JSON under tool_calls of turn 2 \(.*\); this is Python's notation",
        ),
        (
            {"tool_calls": [{"name": "f", "arguments": "{"}]},
            "expected JSON in the arguments of f in turn 2",
        ),
    ],
    ids=["misspelt", "two arguments", "two calls", "no name", "Python", "broken"],
)
def test_a_call_that_cannot_be_read_whole_is_named(turn, message):
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", **turn}]
    with pytest.raises(NotThisFormat, match=message):
        normalise({"messages": turns}, DataFormat.messages)


@pytest.mark.parametrize("key", ["messages", "conversations"])
def test_a_list_in_pythons_notation_is_named_by_its_own_column(key):
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    with pytest.raises(NotThisFormat, match=f"expected JSON under {key} .*json.dumps"):
        detect({key: str(turns)})


def test_schemas_have_parameters_under_every_usual_name_and_a_name():
    turns = EXPECTED_TURNS
    schema = {"name": "add", "input_schema": {"type": "object"}}
    conversation = conversation_of({"messages": turns, "tools": [schema]}, DataFormat.messages)
    parameters = {"name": "add", "parameters": {"type": "object"}}
    assert conversation.tools == [{"type": "function", "function": parameters}]
    for tools in ([{"add": {"description": "d"}}], [{"type": "web_search"}]):
        with pytest.raises(NotThisFormat, match="function schemas with a name under tools"):
            normalise({"messages": turns, "tools": tools}, DataFormat.messages)
    with pytest.raises(NotThisFormat, match="under both"):
        normalise(
            {"messages": turns, "tools": [SCHEMA], "functions": [schema]}, DataFormat.messages
        )


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
        ({"conversations": [{"value": "x"}]}, DataFormat.sharegpt, "turn 1 names no speaker"),
        ({"messages": ["x"]}, DataFormat.messages, "turn 1 to be a bare text"),
        ({"conversations": [{"from": "gpt", "value": 3}]}, DataFormat.sharegpt, "found int"),
        (
            {"messages": [{"role": "user", "content": [{"image": "x"}]}]},
            DataFormat.messages,
            "list",
        ),
        ({"instruction": "x"}, DataFormat.alpaca, "expected text under output"),
        (
            {"question": "x", "answer": "y", "response": "z"},
            DataFormat.alpaca,
            "one of resp",
        ),
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


NAMES = FieldNames(
    {"messages": "dialogue", "role": "who", "content": "said", "output": "best", "input": "about"},
    {"Student": "user", "tutor": "assistant"},
)


@pytest.mark.parametrize(
    "record",
    [
        {"dialogue": [{"who": "Student", "said": "Q"}, {"who": "tutor", "said": "A"}]},
        {"question": "Q", "best": "A", "output": "not this one"},
    ],
    ids=["turns", "a pair"],
)
def test_columns_and_roles_are_what_the_settings_say(record):
    format = detect(record, NAMES)
    assert format is not None
    assert normalise(record, format, NAMES) == EXPECTED


def test_an_unknown_speaker_is_named_with_the_way_out():
    record = {
        "conversations": [{"from": "human", "value": "Q"}, {"from": "Narrator", "value": "N"}]
    }
    with pytest.raises(
        NotThisFormat, match=r"turn 2 .*'Narrator'.*data.roles=\{Narrator: "
    ) as found:
        normalise(record, DataFormat.sharegpt)
    assert found.value.reason == "unknown_role"


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        ({"from": "gpt", "text": "lost"}, "turn 2 has its text under text, .* have value"),
        ({"from": "gpt", "value": None, "content": "lost"}, "turn 2 has its text under content"),
        ({"from": "gpt", "valeu": "lost"}, r"turn 2 has no text under value \(it has from, valeu"),
    ],
)
def test_a_turn_with_a_wrong_key_is_named_and_joins_no_neighbours(turn, message):
    question = {"from": "human", "value": "Q"}
    turns = [question, turn, question, {"from": "gpt", "value": "A"}]
    with pytest.raises(NotThisFormat, match=message) as found:
        normalise({"conversations": turns}, DataFormat.sharegpt)
    assert found.value.reason == "missing_text"


def test_a_record_without_turns_shows_no_format():
    assert detect({"messages": []}) is None
    assert detect({"conversations": "[]"}) is None


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking", "tool_plan"])
def test_reasoning_is_one_thing_under_every_name(key):
    record = {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", key: "R"}]}
    answer = conversation_of(record, DataFormat.messages).messages[1]
    assert answer.content == "" and answer.extra == {"reasoning_content": "R"}
    seen = answer.as_template_input()
    assert seen["reasoning_content"] == seen["reasoning"] == seen["thinking"] == "R"
    assert seen["tool_plan"] == "R"


@pytest.mark.parametrize(
    ("keys", "weight"),
    [
        ({"loss": False}, 0),
        ({"loss": True}, 1),
        ({"training": False}, 0),
        ({"loss_mask": 0}, 0),
        ({"loss_mask": 1}, 1),
        ({"weight": None, "train": False}, 0),
        ({"weight": None, "train": True}, 1),
        ({"weight": 0.5, "train": True}, 0.5),
        ({"weight": 0.5, "loss": None}, 0.5),
        ({"weight": "0.25"}, 0.25),
        ({"train": "False"}, 0),
        ({"trainable": False}, 0),
        ({"masked": True}, 0),
        ({"masked": False}, 1),
        ({"masked": False, "train": False}, 0),
    ],
    ids=str,
)
def test_every_switch_of_a_turn_means_what_its_maker_means(keys, weight):
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A", **keys}]
    answer = conversation_of({"messages": turns}, DataFormat.messages).messages[1]
    assert answer.weight == weight


@pytest.mark.parametrize(
    "extra",
    [
        {"images": ["cat.jpg"]},
        {"image": "cat.jpg"},
        {"videos": ["cat.mp4"]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
    ],
    ids=str,
)
def test_media_are_refused_with_a_reason_of_their_own(extra):
    turns = [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": "A"}]
    with pytest.raises(NotThisFormat) as found:
        normalise({"messages": turns} | extra, DataFormat.messages)
    assert found.value.reason == "media"
    assert conversation_of({"messages": turns, "images": []}, DataFormat.messages).messages


def test_null_arguments_that_no_schema_knows_are_no_arguments():
    def tool(name, *parameters):
        properties = {parameter: {"type": "string"} for parameter in parameters}
        return {"name": name, "parameters": {"properties": properties, "default": None}}

    call = {"name": "weather", "arguments": {"city": "Oslo", "day": None, "ticker": None}}
    record = {
        "tools": [tool("weather", "city", "day") | {"strict": None}],
        "messages": [{"role": "assistant", "content": None, "tool_calls": [{"function": call}]}],
    }
    conversation = conversation_of(record, DataFormat.messages)
    (seen,) = conversation.messages[0].extra["tool_calls"]
    assert seen["function"]["arguments"] == {"city": "Oslo", "day": None}
    (schema,) = conversation.tools or []
    assert "strict" not in schema["function"]
    assert schema["function"]["parameters"]["default"] is None


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ('{"a": ' + "[" * 400 + "]" * 400 + "}", "too_deep"),
        ('{"a": ' + "9" * 5000 + "}", "number_too_long"),
        ('{"a": 1, "b": 0, "a": 2}', "doubled_key"),
        ('{"a": ', "not_this_format"),
    ],
    ids=["deep", "digits", "doubled", "cut off"],
)
def test_arguments_in_json_text_have_the_limits_of_records(arguments, reason):
    call = {"function": {"name": "f", "arguments": arguments}}
    record = {"messages": [{"role": "assistant", "content": None, "tool_calls": [call]}]}
    with pytest.raises(NotThisFormat) as found:
        normalise(record, DataFormat.messages)
    assert found.value.reason == reason


def test_a_system_prompt_of_parts_is_read_and_another_kind_refused():
    record = {"system": [{"type": "text", "text": "S"}], "messages": EXPECTED_TURNS}
    assert conversation_of(record, DataFormat.messages).messages[0] == Message("system", "S")
    with pytest.raises(NotThisFormat, match="expected text under system, found dict"):
        normalise(record | {"system": {"content": "S"}}, DataFormat.messages)


def test_two_system_prompts_beside_the_turns_are_refused_and_one_said_twice_is_one():
    record = {"system": "S", "system_prompt": "T", "messages": EXPECTED_TURNS}
    with pytest.raises(NotThisFormat, match="texts under system and system_prompt: say which"):
        normalise(record, DataFormat.messages)
    assert conversation_of(record | {"system_prompt": "S"}, DataFormat.messages).messages == [
        Message("system", "S"),
        *EXPECTED.messages,
    ]
    chosen = normalise(record, DataFormat.messages, FieldNames({"system": "system_prompt"}))
    assert isinstance(chosen, Conversation) and chosen.messages[0] == Message("system", "T")


def test_a_system_prompt_that_the_turns_begin_with_as_well_is_said_once():
    turns = [{"role": "system", "content": "S"}, *EXPECTED_TURNS]
    record = {"system_prompt": "S\n", "messages": turns}
    assert conversation_of(record, DataFormat.messages).messages == [
        Message("system", "S"),
        *EXPECTED.messages,
    ]


@pytest.mark.parametrize("history", ["user: a", {"user": "a"}, [["a", "b", "c"]], 3])
def test_history_that_is_no_pairs_is_refused(history):
    record = {"instruction": "Q", "output": "A", "history": history}
    with pytest.raises(NotThisFormat, match="expected pairs of texts under history"):
        normalise(record, DataFormat.alpaca)


@pytest.mark.parametrize("history", ["", None, [], "[]"])
def test_an_empty_history_is_none(history):
    record = {"instruction": "Q", "output": "A", "history": history}
    assert normalise(record, DataFormat.alpaca) == EXPECTED


@pytest.mark.parametrize(
    "answer",
    [
        {"content": "A", "reasoning_content": [{"type": "text", "text": "R"}]},
        {"content": [{"type": "thinking", "thinking": "R"}, {"type": "text", "text": "A"}]},
        {"content": [{"type": "reasoning", "text": "R"}, {"type": "text", "text": "A"}]},
    ],
    ids=["a list", "Anthropic's part", "a part with a text"],
)
def test_reasoning_in_parts_is_reasoning_and_no_answer(answer):
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", **answer}]
    seen = conversation_of({"messages": turns}, DataFormat.messages).messages[1]
    assert seen == Message("assistant", "A", extra={"reasoning_content": "R"})


@pytest.mark.parametrize(
    ("answer", "message", "reason"),
    [
        ({"reasoning": {"text": "R"}}, "under reasoning of turn 2, found dict", "not_this_format"),
        ({"content": [{"type": "tool_use", "name": "f"}]}, "a part tool_use", "not_this_format"),
        ({"content": [{"type": "image_url", "text": "A cat"}]}, "a part image_url", "media"),
        ({"content": [{"type": "input_audio", "text": ""}]}, "a part input_audio", "media"),
    ],
    ids=["reasoning", "a call", "a captioned image", "audio"],
)
def test_parts_that_are_no_text_are_named_by_turn_and_kind(answer, message, reason):
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"} | answer]
    with pytest.raises(NotThisFormat, match=message) as found:
        normalise({"messages": turns}, DataFormat.messages)
    assert found.value.reason == reason


def test_a_switch_of_thinking_is_no_text_of_it():
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    record = {"messages": [turns[0], turns[1] | {"thinking": True}]}
    assert normalise(record, DataFormat.messages) == EXPECTED


RECORDS_OF_ALL_FORMATS = {
    "messages": {"messages": EXPECTED_TURNS},
    "alpaca": {"instruction": "Q", "output": "A", "history": [["a", "b"]]},
    "prompt and completion": {"prompt": "P", "completion": "C"},
    "messages as prompt": {"prompt": EXPECTED_TURNS[:1], "completion": EXPECTED_TURNS[1:]},
    "text": {"text": "T"},
}


@pytest.mark.parametrize(
    "record", RECORDS_OF_ALL_FORMATS.values(), ids=RECORDS_OF_ALL_FORMATS.keys()
)
@pytest.mark.parametrize(("keys", "weight"), [({"weight": 0.5}, 0.5), ({"train": False}, 0)])
def test_a_records_own_weight_is_that_of_all_its_answers(record, keys, weight):
    format = detect(record | keys)
    assert format is not None
    content = normalise(record | keys, format)
    if isinstance(content, Passage):
        assert content.weight == weight
    else:
        answers = [m.weight for m in content.messages if m.role == "assistant"]
        assert answers and set(answers) == {weight}


@pytest.mark.parametrize("key", ["train_detail", "training_detail"])
def test_weights_of_parts_of_a_text_are_not_taken_for_those_of_all_of_it(key):
    part = {"begin_offset": 0, "end_offset": 2, "train": False}
    question, answer = EXPECTED_TURNS[:2]
    with pytest.raises(NotThisFormat, match=f"{key} of turn 2 supervises parts of a text"):
        normalise({"messages": [question, answer | {key: [part]}]}, DataFormat.messages)
    normalise({"messages": [question, answer | {key: None}]}, DataFormat.messages)


def test_a_weight_that_is_none_is_named_by_its_place():
    with pytest.raises(NotThisFormat, match=r"under loss_mask of the record, found \[0, 1\]"):
        normalise({"messages": EXPECTED_TURNS, "loss_mask": [0, 1]}, DataFormat.messages)
    turns = [EXPECTED_TURNS[0], EXPECTED_TURNS[1] | {"weight": "much"}]
    with pytest.raises(NotThisFormat, match="a number under weight of turn 2, found 'much'"):
        normalise({"messages": turns}, DataFormat.messages)


def test_prompt_and_completion_of_messages_have_the_system_prompt_and_may_be_json_in_a_cell():
    for write in (json.loads, str):
        record = {
            "system": "S",
            "prompt": write(json.dumps(EXPECTED_TURNS[:1])),
            "completion": write(json.dumps(EXPECTED_TURNS[1:])),
        }
        messages = conversation_of(record, DataFormat.prompt_completion).messages
        assert [(m.role, m.content) for m in messages] == [
            ("system", "S"),
            ("user", "Q"),
            ("assistant", "A"),
        ]
    for prompt in ("[INST] Q", "[1, 2]", "[]"):
        record = {"prompt": prompt, "completion": "[3]"}
        assert normalise(record, DataFormat.prompt_completion) == Passage(prompt, "[3]")


@pytest.mark.parametrize("key", ["system", "input", "context"])
def test_what_stands_beside_prompt_and_completion_and_in_neither_is_not_lost(key):
    record = {"prompt": "P", "completion": "C", key: "B"}
    with pytest.raises(NotThisFormat, match=f"prompt lacks what stands under {key}: 'data.columns"):
        normalise(record, DataFormat.prompt_completion)
    names = FieldNames({"instruction": "prompt", "output": "completion"})
    assert detect(record, names) is DataFormat.alpaca
    assert "B" in str(normalise(record, DataFormat.alpaca, names))
    said = record | {"prompt": "B: P"}
    assert normalise(said, DataFormat.prompt_completion) == Passage("B: P", "C")


def test_turns_under_two_keys_are_the_same_or_refused():
    other = [{"from": "human", "value": "R"}, {"from": "gpt", "value": "B"}]
    record = {"messages": EXPECTED_TURNS, "conversations": other}
    with pytest.raises(NotThisFormat, match=r"turns under messages and conversations: .*messages}"):
        detect(record)
    chosen = normalise(record, DataFormat.sharegpt, FieldNames({"messages": "conversations"}))
    assert isinstance(chosen, Conversation) and chosen.messages[0].content == "R"
    chosen = normalise(record, DataFormat.messages, FieldNames({"messages": "messages"}))
    assert chosen == EXPECTED
    assert normalise(record | {"conversations": EXPECTED_TURNS}, DataFormat.messages) == EXPECTED


@pytest.mark.parametrize("empty", [[], "[]", None, "[Q] A text in brackets"], ids=str)
@pytest.mark.parametrize("keys", [("messages", "conversations"), ("conversation", "messages")])
def test_an_empty_list_beside_the_turns_hides_nothing(keys, empty):
    record = {keys[0]: empty, keys[1]: EXPECTED_TURNS}
    assert detect(record) is DataFormat.messages
    assert normalise(record, DataFormat.messages) == EXPECTED


def test_texts_under_their_speakers_are_said_in_the_order_of_the_keys():
    record = {"conversation": [{"system": "S", "human": "Q", "gpt": "A"}, {"human": "R"}]}
    messages = conversation_of(record, DataFormat.messages).messages
    assert [m.content for m in messages] == ["S", "Q", "A", "R"]


def test_keys_sorted_by_name_give_no_answer_to_another_question():
    record = {
        "conversation": [{"assistant": "A1", "user": "Q1"}, {"assistant": "A2", "user": "Q2"}]
    }
    with pytest.raises(NotThisFormat, match="before its answer in turn 1, found assistant, user"):
        normalise(record, DataFormat.messages)


def test_an_input_without_an_instruction_is_the_question():
    record = {"instruction": " ", "input": "Q", "output": "A"}
    assert normalise(record, DataFormat.alpaca) == EXPECTED


def test_a_question_beside_an_instruction_is_not_lost():
    record = {"instruction": "Be short.", "question": "Q", "output": "A"}
    with pytest.raises(NotThisFormat, match="instruction lacks what stands under question: "):
        normalise(record, DataFormat.alpaca)
    for columns, text in (
        ({"input": "question"}, "Be short.\n\nQ"),
        ({"instruction": "instruction"}, "Be short."),
    ):
        read = normalise(record, DataFormat.alpaca, FieldNames(columns))
        assert isinstance(read, Conversation) and read.messages[0].content == text
    said = record | {"instruction": "Be short: Q"}
    assert conversation_of(said, DataFormat.alpaca).messages[0].content == "Be short: Q"


def test_two_different_texts_in_one_turn_are_refused():
    turns = [EXPECTED_TURNS[0] | {"value": "R"}, EXPECTED_TURNS[1] | {"value": "A"}]
    record = {"messages": turns}
    with pytest.raises(NotThisFormat, match="turn 1 has different texts under content and value"):
        normalise(record, DataFormat.messages)
    chosen = normalise(record, DataFormat.messages, FieldNames({"content": "content"}))
    assert chosen == EXPECTED
    chosen = normalise(record, DataFormat.messages, FieldNames({"content": "value"}))
    assert isinstance(chosen, Conversation) and chosen.messages[0].content == "R"


def asked_and(answer: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", **answer}]}


@pytest.mark.parametrize(
    "answer",
    [
        {"content": None, "refusal": "I cannot."},
        {"refusal": "I cannot."},
        {"content": [{"type": "refusal", "refusal": "I cannot."}]},
    ],
)
def test_what_a_model_declines_with_is_its_answer(answer):
    """OpenAI's API puts it beside the content; the conversation would be left out as blank."""
    messages = conversation_of(asked_and(answer), DataFormat.messages).messages
    assert [message.content for message in messages] == ["Q", "I cannot."]


def test_two_answers_in_one_turn_are_refused():
    with pytest.raises(NotThisFormat, match="turn 2 has a text under content and another under"):
        normalise(asked_and({"content": "A", "refusal": "No."}), DataFormat.messages)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"channel": "analysis"}, "of the channel 'analysis': give what was thought under reason"),
        ({"channel": "commentary", "recipient": "functions.f"}, "recipient 'functions.f'.*tool_ca"),
        ({"tool_responses": [{"name": "f", "response": 1}]}, "tool_responses.*with the role tool"),
        ({"function_calls": "f(1)"}, "function_calls.*give the calls under tool_calls"),
        ({"functions": "[]"}, "functions.*give the schemas beside the turns, under tools"),
        ({"tools": [{"name": "f"}]}, "tools.*give the schemas beside the turns, under tools"),
        ({"reasoning_details": [{"text": "T"}]}, "reasoning_details.*under reasoning_content"),
    ],
)
def test_what_a_turn_says_under_keys_that_are_not_read_is_refused(more, message):
    """A thought would be learned as an answer; a call or its result would be missing."""
    with pytest.raises(NotThisFormat, match=f"turn 2 (has|is).*{message}"):
        normalise(asked_and({"content": "A", **more}), DataFormat.messages)
    blank = {"channel": "final", "recipient": "all"} | dict.fromkeys(
        ("tool_responses", "function_calls", "functions", "tools", "reasoning_details", "refusal")
    )
    content = conversation_of(asked_and({"content": "A", **blank}), DataFormat.messages)
    assert content == EXPECTED


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_in_a_column_of_its_own_is_that_of_the_answer(key):
    record = {"question": "Q", "answer": "A", key: "So it is."}
    answer = conversation_of(record, DataFormat.alpaca).messages[-1]
    assert (answer.content, answer.extra) == ("A", {"reasoning_content": "So it is."})
    switched = conversation_of(record | {key: "on"}, DataFormat.alpaca)
    assert switched == EXPECTED, "a single word is a switch"
    inside = {"question": "Q", "answer": "<think>So it is.</think>A", key: "So it is."}
    assert not conversation_of(inside, DataFormat.alpaca).messages[-1].extra, "said once"
    named = normalise(record, DataFormat.alpaca, FieldNames({"instruction": "question"}))
    assert named == EXPECTED, "who names columns takes those"
    texts = {"prompt": "Q", "completion": "A", key: "So it is."}
    with pytest.raises(NotThisFormat, match=f"lacks what stands under {key}"):
        normalise(texts, DataFormat.prompt_completion)


def test_two_texts_of_reasoning_beside_an_answer_are_refused():
    record = {"question": "Q", "answer": "A", "reasoning": "So it is.", "thinking": "Or so."}
    with pytest.raises(NotThisFormat, match="two different texts of reasoning"):
        normalise(record, DataFormat.alpaca)
