"""Chat records as crashes and strangers leave them: read, counted, or refused with one sentence."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from sft_app.config.schema.data import DataConfig, DataFormat, OnBadRecord
from sft_app.data.prepare_data import prepare_data
from sft_app.data.read.conversation_reader import ConversationReader
from sft_app.data.read.sources import resolve_sources
from tests.data.tokenizers_for_tests import WITH_TOOLS, with_template
from tests.fuzz.mutations import (
    as_file,
    byte_changes,
    changed_bytes,
    changed_json,
    changed_text,
    ends_well,
    fuzzed,
    json_changes,
    text_changes,
)

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object",
        "properties": {"n": {"type": "integer", "default": None}}}}}  # fmt: skip
CALL = {"type": "function", "id": "1", "function": {"name": "f", "arguments": '{"n": 1}'}}
RECORDS: dict[str, list[Any]] = {
    "sharegpt": [
        {"id": "1", "system": "S", "conversations": [
            {"from": "human", "value": "Q"}, {"from": "gpt", "value": "A", "weight": 0.5},
            {"from": "human", "value": "R"}, {"from": "gpt", "value": "B", "train": False}]},
        {"id": 2, "conversations": [
            {"from": "human", "value": "Q"}, {"from": "function_call", "value": '{"name": "f"}'},
            {"from": "observation", "value": "1"}, {"from": "gpt", "value": "A"}]},
    ],
    "messages": [
        {"tools": [TOOL], "messages": [
            {"role": "system", "content": "S"},
            {"role": "user", "content": [{"type": "text", "text": "Q"}]},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "1", "name": "f", "content": "1"},
            {"role": "assistant", "content": "A", "reasoning_content": "why"}]},
        {"messages": '[{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]'},
    ],
    "alpaca": [
        {"instruction": "Q", "input": "I", "output": "A", "system": "S", "history": [["a", "b"]]},
        {"question": "Q", "answer": "A", "weight": "1.5"},
    ],
    "prompt_completion": [
        {"prompt": "Q", "completion": "A"},
        {"prompt": [{"role": "user", "content": "Q"}],
         "completion": [{"role": "assistant", "content": "A"}]},
    ],
    "other names": [
        {"payload": {"dialogue": [{"who": "student", "said": "Q"}, {"who": "tutor", "said": "A"}]}},
        {"frage": "Q", "antwort": "A"},
    ],
}  # fmt: skip
"""Two records of each format, with most of what it may have."""

HEAD = {"version": "1", "data": RECORDS["sharegpt"]}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return with_template(WITH_TOOLS)


def settings(path: Path, **changes: Any) -> DataConfig:
    values: dict[str, Any] = {"train": str(path), "eval_examples": 0, "num_proc": 1}
    return DataConfig(**(values | {"cache_dir": str(path.parent / "cache")} | changes))


def lines(records: Any) -> bytes:
    listed = records if isinstance(records, list) else [records]
    return b"".join(as_file(record) + b"\n" for record in listed)


@fuzzed(few=60)
@given(
    name=st.sampled_from(sorted(RECORDS)),
    changes=json_changes(),
    format=st.sampled_from([*DataFormat, *[DataFormat.auto] * 3]),
    policy=st.sampled_from(list(OnBadRecord)),
)
def test_records_with_other_values_are_tokenised_or_refused(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, name: str, changes: Any,
    format: DataFormat, policy: OnBadRecord,
) -> None:  # fmt: skip
    path = tmp_path / "chat.jsonl"
    path.write_bytes(lines(changed_json(RECORDS[name], changes)))
    data = settings(path, format=format, on_bad_record=policy)
    with ends_well():
        prepared = prepare_data(data, tokenizer, context_length=64, seed=1)
        json.dumps(prepared.statistics.as_dict(), allow_nan=False)
        prepared.collate([prepared.train[0]])


@fuzzed(few=60)
@given(
    name=st.sampled_from(["chat.json", "head.json", "chat.jsonl", "chat.csv", "chat.tsv"]),
    changes=text_changes(),
    policy=st.sampled_from(list(OnBadRecord)),
)
def test_files_with_other_text_are_read_or_refused(
    tmp_path: Path, name: str, changes: Any, policy: OnBadRecord
) -> None:
    records = [record for part in RECORDS.values() for record in part]
    texts = {
        "chat.json": json.dumps(records, indent=1),
        "head.json": json.dumps(HEAD),
        "chat.jsonl": lines(records).decode(),
        "chat.csv": 'instruction,input,output\n"Q, ""and""",,A\nQ,I,"A\nB"\n',
        "chat.tsv": "prompt\tcompletion\nQ\tA\n",
    }
    path = tmp_path / name
    path.write_bytes(changed_text(texts[name], changes))
    with ends_well():
        read(settings(path, on_bad_record=policy))


def read(data: DataConfig) -> None:
    reader = ConversationReader(data)
    for _ in reader.read(resolve_sources(data.train, "data.train")):
        pass


@pytest.fixture(scope="module")
def columns() -> dict[str, bytes]:
    """Return files of columns, by name."""
    rows = [*RECORDS["sharegpt"][:1], *RECORDS["sharegpt"][:1]]
    table = pa.Table.from_pylist(rows * 40)
    parquet, stream, file = io.BytesIO(), io.BytesIO(), io.BytesIO()
    pyarrow.parquet.write_table(table, parquet)
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
    with pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    return {
        "chat.parquet": parquet.getvalue(),
        "stream.arrow": stream.getvalue(),
        "file.arrow": file.getvalue(),
    }


@fuzzed(few=60)
@given(
    name=st.sampled_from(["chat.parquet", "stream.arrow", "file.arrow"]),
    changes=byte_changes(),
    policy=st.sampled_from(list(OnBadRecord)),
)
def test_columns_with_other_bytes_are_read_or_refused(
    tmp_path: Path, columns: dict[str, bytes], name: str, changes: Any, policy: OnBadRecord
) -> None:
    path = tmp_path / name
    path.write_bytes(changed_bytes(columns[name], changes))
    with ends_well():
        read(settings(path, on_bad_record=policy))


def compressors() -> dict[str, Callable[[bytes], bytes]]:
    import bz2
    import gzip
    import lzma

    import zstandard

    return {
        ".gz": gzip.compress,
        ".bz2": bz2.compress,
        ".xz": lzma.compress,
        ".zst": zstandard.ZstdCompressor().compress,
    }


@fuzzed(few=60)
@given(
    suffix=st.sampled_from([".gz", ".bz2", ".xz", ".zst"]),
    changes=byte_changes(),
    policy=st.sampled_from(list(OnBadRecord)),
)
def test_compressed_files_with_other_bytes_are_read_or_refused(
    tmp_path: Path, suffix: str, changes: Any, policy: OnBadRecord
) -> None:
    path = tmp_path / f"chat.jsonl{suffix}"
    whole = compressors()[suffix](lines(RECORDS["sharegpt"] * 50))
    path.write_bytes(changed_bytes(whole, changes))
    with ends_well():
        read(settings(path, on_bad_record=policy))
