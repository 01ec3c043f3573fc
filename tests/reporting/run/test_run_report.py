"""The page of one run."""

import json
import math
import os
import re
import time
from pathlib import Path

import pytest

from sft_app.records.liveness import SECONDS_UNTIL_DEAD, STAMP, remove_stamp, stamp
from sft_app.records.result import Rewind, RunError, Status, TokenCounts, read_result
from sft_app.records.run_files import CONFIG, METRICS, PLAN, RESULT
from sft_app.reporting.page import html_templates
from sft_app.reporting.run import summary
from sft_app.reporting.run.read_run import read_run
from sft_app.reporting.run.run_report import write_run_report
from sft_app.reporting.sweep.failed_cells import ENDED_BADLY
from sft_app.reporting.terminal.plain_text import STATUS_COLOURS
from tests.reporting.example_runs import (
    config_of,
    evaluation,
    metrics_of,
    plan_of,
    result_of,
    write_run,
)
from tests.reporting.read_pages import ATTACK, TagCounter, text_of


def test_a_completed_run_says_what_came_out(completed_run: Path) -> None:
    path = write_run_report(completed_run)
    assert path == completed_run / "report.html"
    text = text_of(path.read_text())
    assert "SmolLM2-135M-Instruct at 2,048 tokens" in text
    assert "Held-out loss fell from 2.6000 to 1.9800 (perplexity 13.46 to 7.24)." in text
    assert "linear × 4" in text
    assert "2,048 tokens trained length 4.6200 2.4700 101 11.82 -88.4 %" in text
    assert "supervised (assistant turns) 301,112 61.3 %" in text
    assert "roles do not alternate 86" in text
    assert "513 MiB" in text
    for title in ("Perplexity by length", "Training loss", "Learning rate", "Throughput"):
        assert title in text


def test_the_page_is_one_file_that_fetches_nothing_and_runs_nothing(completed_run: Path) -> None:
    page = write_run_report(completed_run).read_text()
    seen = TagCounter(page)
    assert all(address.startswith(("./", "../")) for address in seen.addresses)
    assert not {"script", "link", "img", "iframe", "object"} & seen.tags.keys()
    assert "script-src 'none'" in page
    assert "default-src 'none'" in page
    assert not re.search(r"url\((?!#)|@import", page)
    assert len(seen.ids) == len(set(seen.ids))


def test_the_same_files_give_the_same_page(completed_run: Path) -> None:
    assert (
        write_run_report(completed_run).read_bytes() == write_run_report(completed_run).read_bytes()
    )


def test_colours_follow_the_page_and_not_matplotlib(completed_run: Path) -> None:
    page = write_run_report(completed_run).read_text()
    figures = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))
    assert "var(--series-0)" in figures
    assert not re.search(r"#[0-9a-f]{6}\b", figures)
    assert "DejaVu" not in page


def test_everything_that_users_control_is_escaped(tmp_path: Path) -> None:
    run = write_run(
        tmp_path / "run",
        result=result_of(
            status=Status.failed,
            model=ATTACK,
            method=ATTACK,
            error=RunError(type=ATTACK, message=ATTACK, traceback=ATTACK, rank=1),
            seconds={ATTACK: 2.0, "total": 4.0},
            versions={ATTACK: ATTACK},
            device=ATTACK,
        ),
        config={**config_of(), ATTACK: {ATTACK: ATTACK}},
        plan={"data": {ATTACK: [ATTACK, {ATTACK: ATTACK}]}, ATTACK: ATTACK},
        metrics=metrics_of(4),
        overrides=[ATTACK],
    )
    page = write_run_report(run).read_text()
    seen = TagCounter(page)
    assert "script" not in seen.tags
    assert "img" not in seen.tags
    assert seen.handlers == []
    assert "&lt;script&gt;" in page


def test_a_failed_run_shows_its_error_its_rank_and_its_traceback(tmp_path: Path) -> None:
    error = RunError(type="ValueError", message="loss is NaN", rank=3, traceback="File worker.py")
    result = result_of(status=Status.failed, steps=31, error=error)
    text = text_of(write_run_report(write_run(tmp_path / "run", result=result)).read_text())
    assert "Failed after 31 steps. ValueError: loss is NaN" in text
    assert "on rank 3" in text
    assert "File worker.py" in text


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (Status.out_of_memory, "Ran out of memory at 32,768 tokens, before the first step."),
        (Status.interrupted, "Interrupted before the first step."),
        (Status.running, "Step 7, loss"),
    ],
)
def test_other_endings_are_said_in_a_sentence(tmp_path: Path, status: Status, words: str) -> None:
    result = result_of(status=status, context_length=32768, steps=0)
    run = write_run(tmp_path / "run", result=result, metrics=metrics_of(7))
    assert words in text_of(write_run_report(run).read_text())


def test_a_run_that_nobody_stamps_any_more_has_died(tmp_path: Path) -> None:
    """Its result.json says running for ever: who would have written another word is gone."""
    result = result_of(status=Status.running, steps=0)
    run = write_run(tmp_path / "run", result=result, metrics=metrics_of(7))
    stamp(run)
    assert read_run(run).status == "running"
    long_ago = time.time() - SECONDS_UNTIL_DEAD - 1
    os.utime(run / STAMP, (long_ago, long_ago))
    assert read_run(run).status == "died"
    assert "Broke off without a word" in text_of(write_run_report(run).read_text())
    remove_stamp(run)
    assert read_run(run).status == "running", "started by hand: nobody ever stamped it"


def test_where_training_went_back_or_left_steps_out_is_said(tmp_path: Path) -> None:
    rewind = Rewind(step=640, back_to=500, loss=9.5, usual_loss=1.25)
    result = result_of(rewinds=[rewind], skipped_steps=3)
    run = write_run(tmp_path / "run", result=result)
    assert read_result(run).rewinds == [rewind]
    text = text_of(write_run_report(run).read_text())
    assert "rewinds from step 640 to 500 (loss 9.5, usually 1.25)" in text
    assert "steps left out 3" in text


@pytest.mark.parametrize("name", [CONFIG, PLAN, RESULT, METRICS])
@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_missing_or_broken_file_is_said_on_the_page(
    completed_run: Path, name: str, content: str | None
) -> None:
    if content is None:
        (completed_run / name).unlink()
    else:
        (completed_run / name).write_text(content)
    text = text_of(write_run_report(completed_run).read_text())
    if name != METRICS or content:
        assert "What this report could not read" in text
        assert name in text


def test_an_empty_directory_still_gives_a_page(tmp_path: Path) -> None:
    assert "not started" in text_of(write_run_report(tmp_path).read_text())


def test_numbers_that_are_not_finite_are_shown_and_left_out_of_figures(tmp_path: Path) -> None:
    nan = evaluation(math.nan, {512: math.nan, 1024: 1e-9})
    rows = [{"step": step, "loss": math.nan if step > 3 else 2.0} for step in range(1, 50)]
    rows.append({"step": 50, "loss": math.inf, "learning_rate": 0.0, "tokens_per_second": 0})
    result = result_of(
        before=nan, after=evaluation(700.0, {512: 700.0, 1024: 2.0}), tokens=TokenCounts(),
        seconds={"train": math.nan}, epochs=math.nan, tokens_per_second=math.inf,
    )  # fmt: skip
    run = write_run(tmp_path / "run", result=result, metrics=rows, plan={"data": {"x": math.nan}})
    page = write_run_report(run).read_text()
    assert "NaN" in text_of(page)
    assert "nan" not in "".join(re.findall(r' d="([^"]*)"', page))


def test_plans_of_any_shape_are_shown(tmp_path: Path) -> None:
    deep: dict[str, object] = {"end": 1}
    for _ in range(200):
        deep = {"deeper": deep}
    plan = plan_of() | {
        "later": {"list": list(range(5000)), "deep": deep, "none": None, "off": False}
    }
    run = write_run(tmp_path / "run", result=result_of(), plan=plan)
    text = text_of(write_run_report(run).read_text())
    assert "and 4,976 more" in text
    assert text.index("rope") < text.index("tokenizer") < text.index("later")


def test_reasons_and_warnings_of_the_plans_stand_first(tmp_path: Path) -> None:
    plan = {
        "rope": {"method": "yarn", "reason": "8192 exceeds 4096", "warnings": ["beta is low"]},
        "tokenizer": {"pad": {"pad_reason": "unk is free"}},
        "memory": {"weights": 2**30, "num_parameters": 135},
    }
    text = text_of(write_run_report(write_run(tmp_path / "run", plan=plan)).read_text())
    decisions = text.split("Decisions")[1]
    listed = "rope: 8192 exceeds 4096 rope: beta is low tokenizer: pad: unk is free"
    assert listed in decisions.split("method")[0]
    assert "weights 1 GiB num parameters 135" in decisions


def test_a_long_run_stays_a_small_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", result=result_of(), metrics=metrics_of(5_000))
    assert write_run_report(run).stat().st_size < 250_000


def test_lines_of_the_log_that_repeat_keys_are_harmless(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", result=result_of())
    (run / METRICS).write_text(json.dumps({"step": 1, "eval_loss": 2.0, "loss": 2.0}) + "\n\n")
    assert "Training loss" in write_run_report(run).read_text()


def test_every_status_has_words_and_colours() -> None:
    statuses = [status.value for status in Status]
    style = (Path(html_templates.__file__).parent / "style.css").read_text()
    assert set(statuses) <= summary.STATUS_LABELS.keys()
    assert all(f".status-{status}" in style for status in summary.STATUS_LABELS)
    assert all(status in STATUS_COLOURS for status in ENDED_BADLY)
