"""The page of a sweep."""

import re
from pathlib import Path
from typing import Any

import pytest

from sft_app.records.result import RunError, Status
from sft_app.records.run_files import RESULT
from sft_app.reporting.sweep.cells import collect_sweep
from sft_app.reporting.sweep.comparability import cautions
from sft_app.reporting.sweep.criteria import heldout_loss
from sft_app.reporting.sweep.seed_groups import group_seeds
from sft_app.reporting.sweep.settings_diff import differences
from sft_app.reporting.sweep.sweep_report import write_sweep_report
from tests.reporting.example_runs import (
    config_of,
    evaluation,
    metrics_of,
    result_of,
    write_cell,
    write_failed_cell,
    write_run,
    write_sweep,
)
from tests.reporting.read_pages import ATTACK, TagCounter, text_of


@pytest.fixture(scope="module")
def mixed_sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine cells that completed, two out of memory, one failed, one running, one not begun."""
    sweep = write_sweep(tmp_path_factory.mktemp("sweeps") / "mixed")
    write_failed_cell(sweep / "oom-linear", length=65536)
    write_failed_cell(sweep / "oom-yarn", length=131072, method="yarn")
    error = RunError(type="ValueError", message="loss is NaN", traceback="File worker.py, line 3")
    write_failed_cell(sweep / "failed", length=65536, status=Status.failed, error=error)
    write_run(sweep / "running", config=config_of(context_length=65536), metrics=metrics_of(12))
    write_run(sweep / "asked", overrides=["context_length=65536"])
    return sweep


@pytest.fixture(scope="module")
def mixed_page(mixed_sweep: Path) -> str:
    return write_sweep_report(mixed_sweep).read_text()


def test_the_page_states_the_answer_and_the_rule(mixed_page: str) -> None:
    text = text_of(mixed_page)
    assert "14 cells: 9 completed, 1 running, 1 failed, 2 out of memory, 1 no result." in text
    assert "Best: yarn at 32,768 tokens" in text
    assert "perplexity at 32,768 tokens: 6.39 (before training: 9.24)" in text
    assert "The rule: The lowest perplexity after training at 32,768 tokens" in text


def test_every_cell_is_in_the_table_with_its_status(mixed_page: str) -> None:
    table = mixed_page.split('id="cells"')[1].split("</table>")[0]
    assert table.count("<tr") == 14 + 2  # and two rows of headings
    assert table.count("status-completed") == 9
    assert "running, step 12" in table
    assert table.count('class="best"') == 1


def test_figures_show_a_panel_for_each_length_and_what_a_length_costs(mixed_page: str) -> None:
    text = text_of(mixed_page)
    assert text.count("Trained at 8,192 perplexity") == 1
    assert text.count("Trained at 32,768 perplexity") == 1
    for title in ("Throughput tokens per second", "Peak memory GiB", "Training loss"):
        assert title in text
    ids = TagCounter(mixed_page).ids
    assert len(ids) == len(set(ids))


def test_cells_that_failed_are_listed_by_their_true_error(mixed_page: str) -> None:
    text = text_of(mixed_page)
    listed = text.split("Cells that did not complete")[1]
    # Two messages that differ in a number only are one entry.
    assert "out of memory &ensp; OutOfMemoryError 2 cells, at 65,536, 131,072 tokens" in listed
    assert "CUDA out of memory. Tried to allocate 16.00 GiB." in listed
    assert "failed &ensp; ValueError 1 cell, at 65,536 tokens loss is NaN" in listed
    assert "File worker.py, line 3" in listed


def test_the_settings_that_differ_are_listed(mixed_page: str) -> None:
    text = text_of(mixed_page)
    listed = text.split("What differs between the cells")[1]
    assert "context_length 8192, 16384, 32768, 65536, 131072" in listed
    assert "and with it: tokenizer.model_max_length" in listed


def test_seeds_are_shown_by_mean_and_deviation(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "seeds", lengths=(8192,), methods=("yarn",), seeds=(1, 2, 3))
    text = text_of(write_sweep_report(sweep).read_text())
    assert "Settings over their seeds" in text
    assert "yarn 8,192 3 of 3 1.9580 ± 0.0040" in text


def test_cost_is_shown_when_a_price_is_given(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "s", lengths=(8192,), methods=("yarn",))
    assert "<button>cost</button>" not in write_sweep_report(sweep).read_text()
    assert "cost 20.71 at 2.50 an hour" in text_of(write_sweep_report(sweep, 2.5).read_text())


def test_what_makes_a_comparison_unfair_is_said(tmp_path: Path) -> None:
    write_cell(tmp_path / "a", world_size=8)
    write_cell(tmp_path / "b", world_size=4)
    result = result_of(model="another/model")
    write_run(tmp_path / "c", result=result, config=config_of())
    text = text_of(write_sweep_report(tmp_path).read_text())
    assert "start from 2 different models" in text
    assert "ran on different devices, or on different numbers of them" in text


def test_a_seed_that_was_run_twice_is_one_seed_and_that_is_said(tmp_path: Path) -> None:
    """Two sweeps in one folder: without it their cells would show no spread, and a sure winner."""
    for sweep in ("first", "second"):
        write_sweep(tmp_path / sweep, lengths=(8192,), methods=("linear", "yarn"))
    cells = collect_sweep(tmp_path)
    (said,) = cautions(cells)
    assert "first/context_length-8192_rope-linear_seed-1 and second/" in said
    for setting in group_seeds(cells, differences(cells)):
        found = setting.spread(heldout_loss)
        assert found is not None and (found.count, found.deviation) == (1, None)


def test_losses_of_different_texts_are_told_apart_though_their_tokens_are_as_many(
    tmp_path: Path,
) -> None:
    """A sweep that went on with a longer context: no document was too short for the first cells."""
    for name, text in (("a", "one"), ("b", "one"), ("c", "another")):
        result = result_of(seed=ord(name), after=evaluation(2.0, {1024: 2.1, 2048: 2.2}))
        assert result.evaluation_after is not None and result.evaluation_after.heldout is not None
        result.evaluation_after.heldout.text = "of all"
        result.evaluation_after.by_length["1024"].text = "of all"
        result.evaluation_after.by_length["2048"].text = text
        write_run(tmp_path / name, result=result, config=config_of(seed=ord(name)))
    cells = collect_sweep(tmp_path)
    (said,) = cautions(cells)
    assert "At 2k tokens the perplexities were measured on different text" in said
    assert "the same evaluation.lengths=[...] for all cells" in said

    for cell, model in zip(cells, ("a", "a", "b"), strict=True):
        cell.model = model
    (said,) = cautions(cells)
    assert "2 different models" in said, "whose tokens differ in any case"


def test_cells_of_different_versions_are_told_apart(tmp_path: Path) -> None:
    write_sweep(tmp_path, lengths=(8192,), methods=("linear", "yarn"))
    cells = collect_sweep(tmp_path)
    assert cells[0].result is not None
    cells[0].result.versions["torch"] = "2.11.0"
    (said,) = cautions(cells)
    assert "(torch 2.11.0 and 2.13.0)" in said


def test_the_page_fetches_nothing_and_runs_its_own_script_only(tmp_path: Path) -> None:
    write_cell(tmp_path / "a")
    (tmp_path / "a" / "report.html").write_text("the report of this cell")
    page = write_sweep_report(tmp_path).read_text()
    seen = TagCounter(page)
    assert seen.addresses == ["./a/report.html"]
    assert seen.tags["script"] == 1
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/=]{44}'", page)


def test_everything_that_users_control_is_escaped(tmp_path: Path) -> None:
    name = ATTACK.replace("/", "_")
    error = RunError(type=ATTACK, message=ATTACK, traceback=ATTACK)
    write_failed_cell(tmp_path / name, status=Status.failed, error=error, method=ATTACK)
    setting: dict[str, Any] = {ATTACK: ATTACK}
    write_cell(tmp_path / "javascript:alert(1)", method=ATTACK, **setting)
    (tmp_path / "javascript:alert(1)" / "report.html").write_text("")
    write_run(tmp_path / "c", overrides=[f"{ATTACK}={ATTACK}"], config={ATTACK: {ATTACK: ATTACK}})
    seen = TagCounter(write_sweep_report(tmp_path).read_text())
    assert seen.tags["script"] == 1
    assert "img" not in seen.tags
    assert seen.handlers == []
    assert seen.addresses == ["./javascript%3Aalert%281%29/report.html"]


def test_the_same_files_give_the_same_page(mixed_sweep: Path, mixed_page: str) -> None:
    assert write_sweep_report(mixed_sweep).read_text() == mixed_page


def test_jobs_that_wait_and_jobs_that_were_spared_are_told_apart(tmp_path: Path) -> None:
    write_run(tmp_path / "a", result=result_of(status=Status.pending), config=config_of())
    reason = RunError(type="Skipped", message="8,192 tokens ran out of memory")
    skipped = result_of(status=Status.skipped, context_length=16384, error=reason)
    write_run(tmp_path / "b", result=skipped, config=config_of(context_length=16384))
    text = text_of(write_sweep_report(tmp_path).read_text())
    assert "2 cells: 1 skipped, 1 not started." in text
    listed = text.split("Cells that did not complete")[1]
    assert "skipped &ensp; Skipped 1 cell, at 16,384 tokens 8,192 tokens ran out" in listed


def test_a_problem_of_many_cells_is_one_sentence(tmp_path: Path) -> None:
    for name in "abcde":
        write_run(tmp_path / name, result=result_of(), config=config_of())
    text = text_of(write_sweep_report(tmp_path).read_text())
    assert "a and 4 other cells: plan.json is missing: no plan was written." in text


def test_a_cell_whose_result_is_broken_is_listed(tmp_path: Path) -> None:
    write_cell(tmp_path / "good")
    write_cell(tmp_path / "bad")
    (tmp_path / "bad" / RESULT).write_text("{")
    text = text_of(write_sweep_report(tmp_path).read_text())
    assert "2 cells: 1 completed, 1 unreadable." in text
    assert "bad: result.json cannot be used" in text


def test_a_sweep_that_has_only_begun_has_a_page(tmp_path: Path) -> None:
    write_run(tmp_path / "a", overrides=["context_length=4096"])
    write_run(tmp_path / "b")
    text = text_of(write_sweep_report(tmp_path).read_text())
    assert "There is no best cell yet" in text


def test_three_hundred_cells_stay_readable(tmp_path: Path) -> None:
    for rate in range(10):
        lengths, seeds = (8192, 16384, 32768, 65536, 131072), (2 * rate, 2 * rate + 1)
        write_sweep(tmp_path, lengths=lengths, seeds=seeds, steps=5, learning_rate=rate * 1e-6)
    path = write_sweep_report(tmp_path)
    page = path.read_text()
    text = text_of(page)
    assert "300 cells: 300 completed." in text
    assert path.stat().st_size < 3_000_000
    # Thirty variants: eight in colour, the others counted.
    legend = page.split('<ul class="legend">')[1].split("</ul>")[0]
    assert legend.count("<li>") == 9
    assert "22 other settings" in legend
    assert 'class="filter"' in page
