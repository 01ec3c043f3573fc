"""Files of every kind to records; broken ones are named by file, line or byte."""

import bz2
import gzip
import json
import lzma
import resource
import struct
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet
import pytest
import zstandard

from sft_app.common.errors import DataError
from sft_app.data.read import columnar, json_lines, json_stream, tables
from sft_app.data.read.read_files import read_file
from sft_app.data.read.record import BadRecord, Record

RECORDS = [
    {"id": str(n), "conversations": [{"from": "human", "value": f'Ä 😀 {{[,]}} " {n}'}]}
    for n in range(40)
]


def values(path):
    return [r.value for r in read_file(path) if isinstance(r, Record)]


def bad(path):
    return [r for r in read_file(path) if isinstance(r, BadRecord)]


def as_array(indent):
    return json.dumps(RECORDS, indent=indent, ensure_ascii=False).encode()


def as_lines(ensure_ascii=False):
    lines = [json.dumps(record, ensure_ascii=ensure_ascii) for record in RECORDS]
    return ("\n".join(lines) + "\n").encode()


@pytest.fixture(params=[1, 7, 1 << 22], ids=["chunk 1", "chunk 7", "chunk 4M"])
def any_chunk(request, monkeypatch):
    """A record may be cut by the end of a chunk anywhere."""
    monkeypatch.setattr(json_stream, "_CHUNK", request.param)


@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_array(tmp_path, any_chunk, indent):
    path = tmp_path / "a.json"
    path.write_bytes(as_array(indent))
    assert values(path) == RECORDS and not bad(path)


def test_json_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf" + as_array(None))
    assert values(path) == RECORDS and not bad(path)


def test_a_json_file_that_holds_objects_one_after_the_other(tmp_path, any_chunk):
    path = tmp_path / "a.json"
    path.write_bytes(as_lines())
    assert values(path) == RECORDS and not bad(path)


@pytest.mark.parametrize("text", [b"[]", b" [ ]\n", b""])
def test_files_without_records(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_bytes(text)
    assert not values(path) and not bad(path)


def test_jsonl_and_blank_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n" + as_lines() + b"\n\n")
    assert values(path) == RECORDS and not bad(path)


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.compress,
}


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_compressed_files(tmp_path, name, suffix):
    raw = as_array(2) if name == "a.json" else as_lines()
    path = tmp_path / (name + suffix)
    path.write_bytes(COMPRESS[suffix](raw))
    assert values(path) == RECORDS and not bad(path)


def test_zstandard_files_of_several_frames(tmp_path):
    raw = as_lines()
    half = raw.index(b"\n", len(raw) // 2) + 1
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(zstandard.compress(raw[:half]) + zstandard.compress(raw[half:]))
    assert values(path) == RECORDS and not bad(path)


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("damage", [lambda d: d[:-20], lambda d: d[:40] + b"x" * 9 + d[49:]])
def test_a_compressed_file_cut_off_or_damaged_is_told(tmp_path, suffix, damage):
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(damage(COMPRESS[suffix](as_lines())))
    assert [b.reason for b in bad(path)][-1] == "broken_compression"
    assert str(path) in bad(path)[-1].message


def test_parquet_with_nested_turns(tmp_path):
    path = tmp_path / "a.parquet"
    pa.parquet.write_table(pa.Table.from_pylist(RECORDS), path)
    assert values(path) == RECORDS


def test_a_broken_parquet_file(tmp_path):
    path = tmp_path / "a.parquet"
    pa.parquet.write_table(pa.Table.from_pylist(RECORDS), path)
    path.write_bytes(path.read_bytes()[:-30])
    assert [b.reason for b in bad(path)] == ["broken_parquet"]


def test_csv_with_line_ends_inside_quotes(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('prompt,completion\n"a\nb","c, d"\ne,f\n')
    assert values(path) == [
        {"prompt": "a\nb", "completion": "c, d"},
        {"prompt": "e", "completion": "f"},
    ]


def test_a_csv_row_with_too_many_columns_is_named_by_its_line(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("prompt,completion\na,b\na,b,c\nd,e\n")
    assert len(values(path)) == 2
    assert bad(path)[0].message.startswith(f"{path} line 3: expected 2 columns")


@pytest.mark.parametrize("name", ["a.parquet.gz", "a.arrow.zst"])
def test_a_table_that_is_compressed_as_a_whole_says_what_to_do(tmp_path, name):
    (tmp_path / name).write_bytes(b"anything")
    (only,) = bad(tmp_path / name)
    assert only.reason == "compressed_table" and only.message.endswith("unpack it")


def test_a_text_file_is_one_document(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\n")
    assert values(path) == [{"text": "one\ntwo\n"}]


def test_an_unknown_kind_of_file(tmp_path):
    with pytest.raises(DataError, match=r"a\.xml: expected one of \.json, \.jsonl"):
        values(tmp_path / "a.xml")


def test_a_json_array_cut_off_names_record_line_and_byte(tmp_path, any_chunk):
    path = tmp_path / "a.json"
    raw = as_array(2)
    path.write_bytes(raw[:-30])
    start = raw.rindex(b'{\n    "id"')
    line = raw[:start].count(b"\n") + 1
    assert values(path) == RECORDS[:-1]
    (only,) = bad(path)
    assert only.reason == "cut_off"
    assert f"record 40, line {line}, byte {start}: the file ends at byte {len(raw) - 30}" in (
        only.message
    )


def test_an_array_without_its_closing_bracket(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(as_array(2).rstrip()[:-1])
    assert values(path) == RECORDS
    assert [b.reason for b in bad(path)] == ["cut_off"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda record: record.replace(b'"value":', b'"value"', 1),
        lambda record: record.replace(b'"value": "', b'"value": ', 1),
        lambda record: record[:-4],
        lambda record: b'{"id": broken}',
        lambda record: record.replace(b'"id": "', b'"id": "\x01', 1),
    ],
    ids=["no colon", "no quote", "no end", "nonsense", "control character"],
)
def test_reading_goes_on_after_a_broken_record(tmp_path, any_chunk, damage):
    parts = [json.dumps(record, ensure_ascii=False).encode() for record in RECORDS]
    parts[7] = damage(parts[7])
    path = tmp_path / "a.json"
    path.write_bytes(b"[" + b",\n".join(parts) + b"]")
    assert values(path) == RECORDS[:7] + RECORDS[8:]
    (only,) = bad(path)
    assert only.reason == "broken_json"
    byte = 1 + sum(len(part) + 2 for part in parts[:7])
    assert f"record 8, line 8, byte {byte}: expected a JSON record" in only.message


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_one_record_of_another_encoding_spoils_no_other(tmp_path, any_chunk, name):
    lines = as_lines().splitlines()
    lines[3] = lines[3].decode().replace("😀", "").encode("latin-1")
    path = tmp_path / name
    start, separator, end = (b"[", b",\n", b"]") if name == "a.json" else (b"", b"\n", b"")
    path.write_bytes(start + separator.join(lines) + end)
    assert values(path) == RECORDS[:3] + RECORDS[4:]
    (only,) = bad(path)
    assert only.reason == "wrong_encoding" and "line 4, byte" in only.message


def test_a_broken_line_of_jsonl_is_named(tmp_path):
    lines = as_lines().splitlines()
    lines[3] = lines[3][:-5]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    assert values(path) == RECORDS[:3] + RECORDS[4:]
    assert bad(path)[0].message.startswith(f"{path} line 4, column ")


def test_jsonl_cut_off_in_its_last_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(as_lines()[:-9])
    assert values(path) == RECORDS[:-1]
    assert [b.reason for b in bad(path)] == ["cut_off"]


def test_memory_is_flat_in_the_size_of_the_file(tmp_path):
    path = tmp_path / "a.json"
    record = json.dumps({"text": "word " * 20_000}).encode()
    with path.open("wb") as file:
        file.write(b"[" + record)
        for _ in range(1500):
            file.write(b",\n" + record)
        file.write(b"]")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert sum(1 for _ in read_file(path)) == 1501
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert path.stat().st_size > 140 << 20
    assert grown < 60, f"{grown:.0f} MiB more for a file of 150 MB"


@pytest.mark.parametrize(
    "wrap",
    [
        lambda records: b'{"data": ' + records + b"}",
        lambda records: b'{"version": "1.0", "n": 40, "rows": ' + records + b', "x": {"y": 1}}\n',
        lambda records: records + b"\n" + b"[]",
    ],
    ids=["data", "rows with metadata", "two arrays"],
)
@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_records_in_a_wrapper_are_read(tmp_path, any_chunk, wrap, name):
    path = tmp_path / name
    raw = wrap(as_array(1))
    path.write_bytes(gzip.compress(raw) if name.endswith("gz") else raw)
    assert values(path) == RECORDS and not bad(path)


def test_a_second_list_in_a_wrapper_is_not_lost_without_a_word(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b'{"train": ' + as_array(None) + b', "test": [{"text": "x"}]}')
    assert values(path) == RECORDS
    assert [b.reason for b in bad(path)] == ["more_lists"] and "under test" in bad(path)[0].message


def test_a_record_whose_own_data_is_a_list_of_texts_is_a_record(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"data": ["Q", "A"]}\n{"data": ["Q", "B"]}')
    assert values(path) == [{"data": ["Q", "A"]}, {"data": ["Q", "B"]}]


@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_in_a_jsonl_file(tmp_path, indent):
    path = tmp_path / "a.jsonl"
    path.write_bytes(as_array(indent))
    assert values(path) == RECORDS and not bad(path)


DEEP = '{"text": ' + "[" * 400 + "]" * 400 + "}"
DEEPER = '{"text": ' + "[" * 90_000 + "]" * 90_000 + "}"
LONG_NUMBER = '{"text": ' + "7" * 5_000 + "}"
DOUBLED = '{"text": "first", "about": {"text": "inside"}, "text": "second"}'
INSIDE = '{"text": "first", "about": [{"text": "a", "text": "b"}, {"text": "c"}]}'


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (DEEP, "too_deep"),
        (DEEPER, "too_deep"),
        (LONG_NUMBER, "number_too_long"),
        (DOUBLED, "doubled_key"),
        (INSIDE, "doubled_key"),
    ],
    ids=["400 levels", "90,000 levels", "5,000 digits", "two values", "two values inside"],
)
@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "array.json"])
def test_what_no_record_needs_is_named_and_the_next_one_read(tmp_path, record, reason, name):
    lines = ['{"text": "before"}', record, '{"text": "after"}']
    text = "[" + ",\n".join(lines) + "]" if name == "array.json" else "\n".join(lines) + "\n"
    path = tmp_path / name
    path.write_text(text)
    assert values(path) == [{"text": "before"}, {"text": "after"}]
    (only,) = bad(path)
    assert only.reason == reason and "line 2" in only.message


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_a_key_that_has_the_same_value_twice_loses_nothing(tmp_path, name):
    path = tmp_path / name
    path.write_text('{"id": 1, "text": "a", "id": 1}\n')
    assert values(path) == [{"id": 1, "text": "a"}] and not bad(path)


def test_a_broken_record_with_a_key_that_has_two_values_is_named_and_the_next_one_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('[{"text": {"a": 1, "a": 2}, "text" oh}, {"text": "after"}]')
    assert values(path) == [{"text": "after"}]
    assert [b.reason for b in bad(path)] == ["doubled_key"]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl.gz", "a.csv", "a.tsv.xz", "a.parquet"])
def test_a_record_that_is_too_large_is_named_and_the_next_one_read(tmp_path, monkeypatch, name):
    for module in (json_lines, json_stream, tables, columnar):
        monkeypatch.setattr(module, "MAX_RECORD_BYTES", 1000)
    texts = ["before", "x" * 5000, "after"]
    path = tmp_path / name
    if name == "a.parquet":
        pa.parquet.write_table(pa.table({"text": texts}), path)
    else:
        rows = [json.dumps({"text": text}) for text in texts]
        rows = ["text", *texts] if ".json" not in name else rows
        raw = ("\n".join(rows) + "\n").encode()
        path.write_bytes(COMPRESS.get(path.suffix, bytes)(raw))
    assert values(path) == [{"text": "before"}, {"text": "after"}]
    assert bad(path) and all(b.reason in ("too_large", "broken_table") for b in bad(path))


def test_a_line_of_a_compressed_file_is_not_unpacked_beyond_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(json_lines, "MAX_RECORD_BYTES", 1 << 20)
    path = tmp_path / "bomb.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b'{"text": "')
        for _ in range(80):
            file.write(b"0" * (1 << 20))
        file.write(b'"}\n{"text": "after"}\n')
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert values(path) == [{"text": "after"}]
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 40


def test_a_csv_with_a_nul_byte_or_an_open_quote_is_a_bad_record(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'text\nfine\n"open ' + b"x" * 100)
    assert values(path) == [{"text": "fine"}]
    assert [b.reason for b in bad(path)] == ["broken_table"]


def test_an_open_quote_takes_no_rows_with_it_in_silence(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('prompt,completion\na,b\nc,"d\ne,f\ng,h\n')
    assert values(path) == [{"prompt": "a", "completion": "b"}]
    assert bad(path)[0].message.startswith(f"{path} line 3: expected a row of the table, its quo")


def test_quotes_around_a_part_of_a_cell_are_not_taken_out_of_it(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('prompt\tcompletion\n"Hi" he said\tb\nShe said "hi"\td\n')
    assert values(path) == [{"prompt": 'She said "hi"', "completion": "d"}]
    assert [b.reason for b in bad(path)] == ["broken_table"]


def test_a_table_with_two_columns_of_one_name_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("question,answer,answer\na,b,c\n")
    assert not values(path) and "found 'answer' more than once" in bad(path)[0].message
    path.write_text("question,answer,,\na,b,,\n")
    assert values(path) == [{"question": "a", "answer": "b", "": ""}]


UNION = [
    {"tools": [{"name": "f", "parameters": {"properties": {"city": {"type": "string"}}}}],
     "messages": [{"role": "assistant", "content": None,
                   "tool_calls": [{"function": {"name": "f", "arguments": {"city": "P"}}}]}]},
    {"tools": [{"name": "g", "parameters": {"properties": {"ticker": {"type": "string"}}}}],
     "messages": [{"role": "assistant", "content": "x",
                   "tool_calls": [{"function": {"name": "g", "arguments": {"ticker": "X"}}}]}]},
]  # fmt: skip


@pytest.mark.parametrize("kind", ["parquet", "arrow file", "arrow stream"])
def test_columnar_files_give_no_key_that_the_row_did_not_have(tmp_path, kind):
    table = pa.Table.from_pylist(UNION)
    path = tmp_path / ("a.parquet" if kind == "parquet" else "a.arrow")
    if kind == "parquet":
        pa.parquet.write_table(table, path)
    else:
        new = pa.ipc.new_file if kind == "arrow file" else pa.ipc.new_stream
        with pa.OSFile(str(path), "wb") as sink, new(sink, table.schema) as writer:
            writer.write_table(table)
    assert values(path) == UNION


def test_an_argument_that_is_called_as_speakers_are_keeps_no_nulls_of_others(tmp_path):
    flight = {"from": "Oslo", "to": "Rome"}
    rows = [
        {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"arguments": given}]}]}
        for given in (flight, {"city": "Oslo"}, {"role": "admin"})
    ]
    path = tmp_path / "a.parquet"
    pa.parquet.write_table(pa.Table.from_pylist(rows), path)
    assert values(path) == rows


def test_maps_of_arrow_are_objects(tmp_path):
    turn = pa.map_(pa.string(), pa.string())
    call = pa.struct({"name": pa.string(), "arguments": pa.map_(pa.string(), pa.int64())})
    columns = {
        "messages": pa.array([[[("role", "user"), ("content", "Q")]]], pa.list_(turn)),
        "calls": pa.array([[{"name": "f", "arguments": [("a", 1)]}]], pa.list_(call)),
    }
    path = tmp_path / "a.parquet"
    pa.parquet.write_table(pa.table(columns), path)
    assert values(path) == [
        {
            "messages": [{"role": "user", "content": "Q"}],
            "calls": [{"name": "f", "arguments": {"a": 1}}],
        }
    ]


def test_an_arrow_file_with_places_outside_of_it_is_broken(tmp_path):
    """Read as they stand, such places end the process with SIGSEGV or SIGBUS."""
    path = tmp_path / "a.arrow"
    table = pa.table({"text": ["one", "two", "three"]})
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table)
    offsets, written = struct.pack("<4i", 0, 3, 6, 11), path.read_bytes()
    assert written.count(offsets) == 1
    path.write_bytes(written.replace(offsets, struct.pack("<4i", 0, 3, 6, 2**31 - 1)))
    assert [b.reason for b in bad(path)] == ["broken_arrow"]


def test_a_broken_arrow_file(tmp_path):
    path = tmp_path / "a.arrow"
    path.write_bytes(b"no arrow at all")
    assert [b.reason for b in bad(path)] == ["broken_arrow"]
