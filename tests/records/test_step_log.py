"""A line of metrics.jsonl: one type for those who write it and who read it."""

import json
from pathlib import Path

import pytest

from sft_app.records.result import RunResult, Status, TokenCounts, read_result
from sft_app.records.step_log import StepLine, last_line, note_step, parse_line, step_line


def a_result() -> RunResult:
    return RunResult(
        status=Status.running, started_at="2026-01-01T00:00:00+00:00", config_hash="abc",
        context_length=128, model="m", seed=1,
    )  # fmt: skip


def test_a_line_reads_back_equal() -> None:
    line = StepLine(step=3, loss=1.5, total_tokens=128, non_padding_tokens=120, padding_tokens=8)
    assert parse_line(line.as_json()) == line
    assert json.loads(line.as_json()).keys() == {
        "step", "loss", "total_tokens", "non_padding_tokens", "padding_tokens",
    }  # fmt: skip


def test_a_line_of_an_older_version_reads_with_todays_names() -> None:
    line = parse_line('{"step": 1, "tokens": 100, "padding_tokens": 30, "supervised_tokens": 9}')
    assert line is not None
    assert (line.total_tokens, line.non_padding_tokens) == (100, 70)
    assert line.tokens == TokenCounts(total=100, supervised=9, padding=30)


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"step": true}', '{"loss": 1}', "[" * 99_999])
def test_what_is_no_line_is_none(text: str) -> None:
    assert parse_line(text) is None


def test_the_newest_whole_line_says_how_far_a_run_came(tmp_path: Path) -> None:
    assert last_line(tmp_path) is None
    (tmp_path / "metrics.jsonl").write_text('{"step": 4, "epoch": 0.5}\n{"step": 5, "lo')
    newest = last_line(tmp_path)
    assert newest is not None
    result = a_result()
    note_step(result, newest)
    assert (result.steps, result.epochs) == (4, 0.5)
    note_step(result, step_line(2, {}))
    assert result.steps == 4, "an older line takes nothing back"


def test_result_json_says_what_is_no_padding_and_reads_without(tmp_path: Path) -> None:
    result = a_result()
    result.tokens = TokenCounts(total=10, supervised=3, padding=4)
    result.write(tmp_path)
    raw = json.loads((tmp_path / "result.json").read_text())
    assert raw["tokens"] == {"total": 10, "supervised": 3, "padding": 4, "non_padding": 6}
    assert read_result(tmp_path) == result
    del raw["tokens"]["non_padding"]
    (tmp_path / "result.json").write_text(json.dumps(raw))
    assert read_result(tmp_path) == result
