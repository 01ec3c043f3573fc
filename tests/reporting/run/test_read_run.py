"""A run's files are read as far as they can be; what cannot becomes a sentence."""

import json
from pathlib import Path

import pytest

from sft_app.records.run_files import CONFIG, METRICS, PLAN, RESULT
from sft_app.reporting.run.read_metrics import read_metrics
from sft_app.reporting.run.read_run import is_run, read_run
from tests.reporting.example_runs import config_of, metrics_of, plan_of, result_of, write_run


def test_a_complete_run_has_no_problems(completed_run: Path) -> None:
    run = read_run(completed_run)
    assert run.problems == []
    assert run.status == "completed"
    assert run.config["context_length"] == 2048
    assert run.plan["rope"]["factor"] == 4.0
    assert run.overrides == ["context_length=2048", "rope=linear"]
    assert [row.step for row in run.metrics] == list(range(1, 61))


def test_an_empty_directory_is_a_run_that_has_not_started(tmp_path: Path) -> None:
    run = read_run(tmp_path)
    assert run.status == "missing"
    assert len(run.problems) == 5
    assert not is_run(tmp_path)


@pytest.mark.parametrize("name", [CONFIG, PLAN, RESULT, METRICS])
@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe\x00garbage", b"[1, 2", b"null", b'"text"', b"[" * 5000, b"a: [b\n - {"],
)
def test_any_broken_file_is_named_and_nothing_is_raised(
    completed_run: Path, name: str, content: bytes
) -> None:
    (completed_run / name).write_bytes(content)
    problems = read_run(completed_run).problems
    if name == METRICS and not content:
        assert problems == []
    else:
        assert any(name in problem for problem in problems)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("context_length", "<script>"),
        ("tokens_per_second", "fast"),
        ("seconds", {"train": "long"}),
        ("seconds", [1]),
        ("evaluation_after", {"heldout": None, "by_length": {"long": None}, "passkey": {}}),
        ("evaluation_after", {"heldout": None, "by_length": {}, "passkey": {"far": 1.0}}),
        ("status", "splendid"),
        ("error", "it broke"),
        ("unknown_field", 1),
    ],
)
def test_a_result_with_a_wrong_type_is_unreadable_and_says_why(
    completed_run: Path, key: str, value: object
) -> None:
    raw = json.loads((completed_run / RESULT).read_text())
    (completed_run / RESULT).write_text(json.dumps({**raw, key: value}))
    run = read_run(completed_run)
    assert run.status == "unreadable"
    assert run.result is None
    assert any(RESULT in problem for problem in run.problems)


def test_a_half_written_last_line_is_left_out_and_said(tmp_path: Path) -> None:
    write_run(tmp_path, metrics=metrics_of(3))
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 4, "lo')
    rows, problems = read_metrics(tmp_path)
    assert [row.step for row in rows] == [1, 2, 3]
    assert problems == [
        "The last line of metrics.jsonl is incomplete: the run was writing it, or broke off."
    ]


def test_a_resumed_run_counts_the_later_line_of_a_step(tmp_path: Path) -> None:
    rows = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.9}, {"step": 2, "loss": 2.5}]
    write_run(tmp_path, metrics=rows)
    assert [row.loss for row in read_metrics(tmp_path)[0]] == [3.0, 2.5]


def test_held_out_loss_belongs_to_the_step_that_it_was_measured_after(tmp_path: Path) -> None:
    rows = [{"step": 1, "loss": 3.0}, {"step": 1, "eval_loss": 2.8}, {"step": 2, "loss": 2.5}]
    write_run(tmp_path, metrics=rows)
    read, problems = read_metrics(tmp_path)
    assert [(row.loss, row.eval_loss) for row in read] == [(3.0, 2.8), (2.5, None)]
    assert not problems


def test_values_that_are_no_numbers_count_as_not_measured(tmp_path: Path) -> None:
    row = {"step": 1, "loss": "low", "grad_norm": True, "tokens": 10**400, "mfu": None}
    write_run(tmp_path, metrics=[{**row, "peak_memory_bytes": {"host": 5, "device": 7}}])
    (read,), _ = read_metrics(tmp_path)
    assert (read.loss, read.grad_norm, read.total_tokens, read.mfu) == (None, None, None, None)
    assert read.peak_memory_bytes == 7


def test_the_status_comes_from_the_files(tmp_path: Path) -> None:
    write_run(tmp_path / "asked", config=config_of())
    write_run(tmp_path / "training", config=config_of(), metrics=metrics_of(2))
    write_run(tmp_path / "planned", config=config_of(), plan=plan_of(), result=result_of())
    statuses = [read_run(tmp_path / name).status for name in ("asked", "training", "planned")]
    assert statuses == ["missing", "running", "completed"]


def test_tokens_and_passwords_stay_out_and_pad_tokens_stay_in(tmp_path: Path) -> None:
    config = {
        **config_of(),
        "extra": {"hub_token": "hf_abc", "pad_token": "<pad>", "api_key": None},
    }
    overrides = ["+trainer.extra.hub_token=hf_abc", "tokenizer.pad_token=eos"]
    run = read_run(write_run(tmp_path, config=config, overrides=overrides))
    assert run.config["extra"] == {"hub_token": "(hidden)", "pad_token": "<pad>", "api_key": None}
    assert run.overrides == ["+trainer.extra.hub_token=(hidden)", "tokenizer.pad_token=eos"]


def test_what_a_run_that_goes_on_has_still_to_write_is_no_problem(completed_run: Path) -> None:
    for name in (PLAN, METRICS):
        (completed_run / name).unlink()
    assert len(read_run(completed_run).problems) == 2
    result = json.loads((completed_run / RESULT).read_text()) | {"status": "running"}
    (completed_run / RESULT).write_text(json.dumps(result))
    run = read_run(completed_run)
    assert run.status == "running" and run.problems == []
