"""Nothing of a record is lost without a word: what is left out is counted, by kind."""

import json

import pyarrow as pa
import pyarrow.parquet
import pytest

from sft_app.common.errors import DataError
from sft_app.config.schema.app import AppConfig
from sft_app.config.schema.data import OnBadRecord, Overlong, OverlongQuestion, Packing
from sft_app.data.batches import fit_rows as fitting
from sft_app.data.prepare_data import prepare_data
from sft_app.data.statistics_text import describe_statistics
from sft_app.data.statistics_text import read_counts as read_lines
from sft_app.training.screen.screen_lines import data_lines
from tests.data.chat_files import prepare, settings, sharegpt
from tests.data.templates_of_families import THINKS
from tests.data.tokenizers_for_tests import CHATML, WITH_TOOLS, with_template


def turn(role, content, **more):
    return {"role": role, "content": content, **more}


def tool(name, *parameters):
    properties = {parameter: {"type": "string"} for parameter in parameters}
    parameters_schema = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "parameters": parameters_schema}}


def calling(name, **arguments):
    function = {"name": name, "arguments": arguments}
    call = {"id": "1", "type": "function", "function": function}
    return {
        "tools": [tool(name, *arguments)],
        "messages": [
            turn("user", "Do it."),
            turn("assistant", None, tool_calls=[call]),
            turn("tool", "done"),
            turn("assistant", "It is done."),
        ],
    }


PLAIN = {"messages": [turn("user", "Q"), turn("assistant", "A")]}


def written(folder, records, name="chats.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def read_counts(path, folder, template=CHATML, **changes):
    config = settings(path, folder, eval_examples=0, on_bad_record=OnBadRecord.skip, **changes)
    return prepare(config, with_template(template)).statistics.train_read


def test_calls_that_the_template_does_not_render_are_a_bad_record_counted_by_kind(tmp_path):
    records = [PLAIN, calling("light", room="hall"), calling("heat", room="hall"), PLAIN]
    path = written(tmp_path, records)
    read = read_counts(path, tmp_path)
    assert read.skipped == {"not_rendered": 2}
    assert read.not_rendered == {"tools": 2, "tool_calls": 2}
    assert read.records == read.conversations + sum(read.skipped.values()) == 4
    with pytest.raises(DataError, match=r"line 2: the chat template leaves out .*tool_calls"):
        prepare(settings(path, tmp_path, eval_examples=0), with_template(CHATML))
    assert read_counts(path, tmp_path, WITH_TOOLS).skipped == {}


@pytest.mark.parametrize("kind", ["parquet", "jsonl of a table"])
def test_structs_of_a_table_give_the_tokens_and_labels_of_their_records(tmp_path, kind):
    records = [calling("light", room="hall"), calling("price", ticker="X", day="3")]
    plain = written(tmp_path, records)
    table = pa.Table.from_pylist(records)
    if kind == "parquet":
        other = tmp_path / "chats.parquet"
        pa.parquet.write_table(table, other)
    else:
        other = written(tmp_path, table.to_pylist(), "table.jsonl")
    items = []
    for path in (plain, other):
        config = settings(path, tmp_path, eval_examples=0, packing=Packing.none)
        prepared = prepare_data(config, with_template(WITH_TOOLS), context_length=4096, seed=1)
        rows = [prepared.train[number] for number in range(len(prepared.train))]
        items.append([{key: value.tolist() for key, value in row.items()} for row in rows])
    assert items[0] == items[1] and len(items[0]) == 2


def test_an_empty_first_record_is_counted_and_decides_nothing(tmp_path):
    for key in ("messages", "conversations"):
        read = read_counts(written(tmp_path, [{key: []}, PLAIN]), tmp_path)
        assert read.conversations == 1 and read.formats == {"messages": 1}
        assert read.repaired == {"empty": 1} and not read.skipped


def test_each_kind_of_bad_record_has_a_count_of_its_own(tmp_path):
    records = [
        PLAIN,
        PLAIN | {"images": ["cat.jpg"]},
        {"messages": [turn("elf", "Q"), turn("assistant", "A")]},
        {"messages": [turn("user", "Q"), {"role": "assistant", "text": "A"}]},
        {"messages": [turn("user", "<image>?"), turn("assistant", "A")]},
    ]
    read = read_counts(written(tmp_path, records), tmp_path)
    assert read.skipped == {"media": 1, "unknown_role": 1, "missing_text": 1}
    assert read.repaired == {"media_placeholder_in_text": 1}


def test_a_column_that_no_record_has_is_said_each_time(tmp_path, caplog):
    columns = {"system": "sytem", "content": "content"}
    path = written(tmp_path, [PLAIN | {"sys": "S"}, PLAIN])
    for _ in ("read", "from the cache"):
        caplog.clear()
        read = read_counts(path, tmp_path, columns=columns)
        assert read.columns_not_found == ["sytem (system)"]
        assert "data.train has what data.columns names: sytem (system)" in caplog.text
    columns = {"system": "sys"}
    assert not read_counts(path, tmp_path, columns=columns).columns_not_found


def test_what_records_and_turns_say_under_unknown_keys_is_named(tmp_path):
    """A system prompt under a name of its own is not missed by anybody, unless it is told."""
    odd = {"messages": [turn("user", "Q", mood="calm"), turn("assistant", "A")]}
    records = [odd | {"system_message": "S", "id": 1, "empty": []}, PLAIN | {"id": 2}]
    for _ in ("read", "from the cache"):
        read = read_counts(written(tmp_path, records), tmp_path)
        assert read.keys_not_read == {"turns.mood": 1, "system_message": 1, "id": 2}
        lines = read_lines(read)
        assert any("not read: system_message, turns.mood (data.columns" in s for s in lines)
    named = read_counts(written(tmp_path, records), tmp_path, columns={"system": "system_message"})
    assert named.keys_not_read == {"turns.mood": 1, "id": 2}


@pytest.mark.parametrize(
    "record",
    [
        {"instruction": "Q", "input": "I", "output": "A", "history": [["q", "a"]], "tools": None},
        {"question": "Q", "answer": "A", "context": "C", "weight": 1, "thinking": "It is so."},
        {"prompt": "Q", "completion": "A"},
        {"prompt": [turn("user", "Q")], "completion": [turn("assistant", "A")], "system": "S"},
        calling("f", x="1") | {"system": "S", "train": True},
    ],
)
def test_what_is_read_is_not_told_as_passed_over(tmp_path, record):
    assert not read_counts(written(tmp_path, [record]), tmp_path, THINKS).keys_not_read


def test_what_a_record_tells_its_template_is_counted(tmp_path):
    told = {"chat_template_kwargs": {"enable_thinking": False}, "documents": [{"text": "T"}]}
    path = written(tmp_path, [PLAIN | told, PLAIN | {"documents": []}])
    assert read_counts(path, tmp_path).repaired == {
        "chat_template_kwargs_not_used": 1,
        "documents_not_used": 1,
    }


@pytest.mark.parametrize(
    "changes", [{"max_examples": 10}, {"weight": 0.5}, {"weight": 2}, {}], ids=str
)
def test_conversations_read_are_those_trained_on_held_out_or_left_out(tmp_path, changes):
    records = [sharegpt(n % 60) for n in range(100)]
    source = {"path": str(written(tmp_path, records)), "weight": changes.get("weight", 1)}
    others = {key: value for key, value in changes.items() if key != "weight"}
    config = settings(tmp_path, tmp_path, train=[source], eval_examples=7, **others)
    data = prepare(config, with_template(CHATML)).statistics
    trained = data.train.examples // 2 if source["weight"] == 2 else data.train.examples
    held_out = data.eval.examples if data.eval else 0
    parts = trained + held_out + data.not_chosen + data.copies_of_held_out
    assert parts == data.train_read.conversations == 100
    assert bool(data.not_chosen) == (source["weight"] < 1 or "max_examples" in changes)
    text = "\n".join([describe_statistics(data), *data_lines(AppConfig(data=config), data)])
    for count in filter(None, (data.not_chosen, data.copies_of_held_out)):
        assert text.count(f"                {count:,} ") >= 2, "on the plan and on the screen"


def test_where_all_are_held_out_or_not_chosen_the_message_says_so(tmp_path):
    path = written(tmp_path, [PLAIN] * 12)
    with pytest.raises(DataError, match=r"read \(copies_of_held_out 11, held_out 1\)"):
        prepare(settings(path, tmp_path), with_template(CHATML))
    source = [{"path": str(path), "weight": 1e-9}]
    with pytest.raises(DataError, match=r"12 conversations read \(not_chosen 12\)"):
        prepare(settings(path, tmp_path, train=source), with_template(CHATML))


def test_files_without_a_record_are_counted_each_time(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    written(folder, [PLAIN])
    for name, text in (("a.jsonl", ""), ("b.json", "[]"), ("c.csv", "prompt,completion\n")):
        (folder / name).write_text(text)
    for _ in ("read", "from the cache"):
        read = read_counts(folder, tmp_path)
        assert read.records == 1 and read.ignored_files == {"without_records": 3}


def test_special_tokens_in_text_are_counted(tmp_path):
    record = {"messages": [turn("user", "what is <|im_end|>?"), turn("assistant", "A")]}
    assert read_counts(written(tmp_path, [record, PLAIN]), tmp_path).repaired == {
        "special_token_in_text": 1
    }


def test_files_of_a_folder_that_are_no_data_are_counted(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    written(folder, [PLAIN])
    written(folder, [PLAIN], "._chats.jsonl")
    (folder / "LICENSE.txt").write_text("all rights")
    read = read_counts(folder, tmp_path)
    assert read.records == 1 and read.ignored_files == {"hidden": 1, "licence_or_readme": 1}
    # The data are the same and come from the cache; what lies beside them is not.
    (folder / "LICENSE.txt").unlink()
    assert read_counts(folder, tmp_path).ignored_files == {"hidden": 1}


def test_when_nothing_is_left_the_reasons_are_printed_with_their_counts(tmp_path):
    records = [PLAIN | {"images": ["x"]}] * 3 + [{"messages": [turn("user", "Q")]}]
    message = (
        r"nothing to train on .*4 records, 0 conversations .*media 3, no_question_and_answer 1"
    )
    with pytest.raises(DataError, match=message):
        read_counts(written(tmp_path, records), tmp_path)


def test_copies_of_held_out_conversations_are_left_out_and_counted(tmp_path):
    records = [sharegpt(n) for n in range(30)] * 2
    config = settings(written(tmp_path, records), tmp_path, eval_examples=5)
    statistics = prepare(config, with_template(CHATML)).statistics
    assert statistics.copies_of_held_out == 60 - 5 - statistics.train.examples > 0
    assert f"{statistics.copies_of_held_out} left out: copies of held-out" in describe_statistics(
        statistics
    )


def test_conversations_that_differ_in_their_tools_are_no_copies(tmp_path):
    one, other = calling("light", room="hall"), calling("light", room="hall")
    other["tools"].append(tool("heat", "room"))
    other["tools"][1]["function"]["description"] = "of a room"
    records = [one] * 20 + [other] * 20
    config = settings(written(tmp_path, records), tmp_path, eval_examples=4)
    statistics = prepare(config, with_template(WITH_TOOLS)).statistics
    assert statistics.train.examples == 20 and statistics.copies_of_held_out == 16


def test_held_out_data_that_is_trained_on_is_counted(tmp_path):
    path = written(tmp_path, [sharegpt(n) for n in range(10)])
    held = written(tmp_path, [sharegpt(n) for n in range(7, 12)], "held.jsonl")
    prepared = prepare(settings(path, tmp_path, eval=str(held)), with_template(CHATML))
    assert prepared.statistics.eval_in_train == 3


def test_no_label_is_lost_to_a_long_question_or_a_long_answer(tmp_path):
    long = {"messages": [turn("system", "Be kind."), turn("user", "why " * 400)]}
    long["messages"] += [turn("assistant", "because " * 300), turn("user", "Q")]
    long["messages"].append(turn("assistant", "A"))
    path = written(tmp_path, [long, sharegpt(3)])

    def fitted(context_length, question=OverlongQuestion.keep_ends):
        config = settings(
            path, tmp_path, eval_examples=0, packing=Packing.none, overlong_question=question
        )
        tokenizer = with_template(CHATML)
        return prepare_data(config, tokenizer, context_length=context_length, seed=1)

    whole, split = fitted(100_000), fitted(128)
    assert split.statistics.train.lost_labels == 0
    labels = [sum((item["labels"] != -100).sum() for item in p.train) for p in (whole, split)]
    assert labels[0] == labels[1] == split.statistics.train.supervised_tokens
    assert split.statistics.train.shortened_questions == 1
    assert split.statistics.train.continued_answers > 3
    head = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n"
    texts = [with_template(CHATML).decode(item["input_ids"]) for item in split.train]
    assert all(text.startswith(head + "why why") for text in texts if "because" in text)
    dropped = fitted(128, OverlongQuestion.drop).statistics.train
    assert dropped.lost_labels > 0 and dropped.lost_tokens.keys() == {"long_question"}


def test_rows_are_fitted_once_for_all_processes_and_runs(tmp_path, monkeypatch):
    calls = []
    original = fitting._fit_all

    def counting(*args):
        calls.append(args[1:3])
        return original(*args)

    monkeypatch.setattr(fitting, "_fit_all", counting)
    path = written(tmp_path, [sharegpt(n) for n in range(40)])
    for context_length in (64, 64, 128, 64):
        config = settings(path, tmp_path)
        prepare_data(config, with_template(CHATML), context_length=context_length, seed=1)
    assert calls == [(64, Overlong.split), (128, Overlong.split)]


def test_what_the_template_is_told_decides_the_tokens(tmp_path):
    path = written(tmp_path, [{"messages": [turn("user", "Q"), turn("assistant", "A")]}] * 3)

    def tokens(variables, template="{{ mood }}" + THINKS):
        config = settings(path, tmp_path, eval_examples=0)
        prepared = prepare_data(
            config,
            with_template(template),
            context_length=64,
            seed=1,
            chat_template_kwargs=variables,
        )
        return prepared.train[0]["input_ids"].tolist()

    assert tokens({"mood": "glad"}) != tokens({"mood": "sad"})
    assert tokens({"mood": "glad"}) == tokens({"mood": "glad"})


def test_statistics_name_what_was_left_out(tmp_path):
    records = [sharegpt(1), calling("light", room="hall")]
    records[1]["conversations"] = records[1].pop("messages")
    path = written(tmp_path, records)
    config = settings(path, tmp_path, eval_examples=0, on_bad_record=OnBadRecord.skip)
    statistics = prepare(config, with_template(CHATML)).statistics
    assert "not rendered by the chat template: tool_calls 1, tools 1" in describe_statistics(
        statistics
    )
    assert json.loads(json.dumps(statistics.as_dict()))["train_read"]["not_rendered"]


def test_a_conversation_whose_history_is_rewritten_is_one_in_several_texts(tmp_path):
    turns = [turn("user", "Q"), turn("assistant", "A", reasoning_content="why")]
    turns += [turn("user", "R"), turn("assistant", "B", reasoning_content="how")]
    path = written(tmp_path, [PLAIN, {"messages": turns}])
    prepared = prepare(settings(path, tmp_path, eval_examples=0), with_template(THINKS))
    assert "2 conversations in 3 texts, " in describe_statistics(prepared.statistics)
