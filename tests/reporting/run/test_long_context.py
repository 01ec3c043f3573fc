"""How far a model reads, on the page of a run and in the table of a sweep."""

from pathlib import Path

from sft_app.records.result import Evaluation, TaskScore
from sft_app.reporting.run.long_context import cliff, effective_length
from sft_app.reporting.run.run_report import write_run_report
from sft_app.reporting.sweep.answer_table import build_answer_table
from sft_app.reporting.sweep.cells import collect_sweep
from sft_app.reporting.sweep.seed_groups import group_seeds
from sft_app.reporting.sweep.settings_diff import differences
from sft_app.reporting.sweep.sweep_csv import csv_text
from sft_app.reporting.sweep.sweep_table import build_table
from tests.reporting.example_runs import (
    config_of,
    evaluation,
    result_of,
    write_failed_cell,
    write_run,
)
from tests.reporting.read_pages import text_of


def evaluation_with_tasks(*scores: float, effective: int | None) -> Evaluation:
    """Scores at 512, 2,048 and 4,096 tokens; each needle at two depths."""
    found = evaluation(2.0, {512: 2.0, 2048: 2.1})
    found.tasks["niah_single"] = {
        str(length): TaskScore(score=s, samples=4, by_depth={"0": s, "0.5": s / 2})
        for length, s in zip((512, 2048, 4096), scores, strict=True)
    }
    found.effective_length = {"nolima_85": effective, "ruler_85.6": None}
    found.loss_by_position = {str(128 * i): 3.0 - i / 100 for i in range(1, 33)}
    found.longppl = {"2048": 4.5, "4096": None}
    return found


def write_example(directory: Path) -> Path:
    result = result_of(
        before=evaluation_with_tasks(1.0, 0.1, 0.0, effective=512),
        after=evaluation_with_tasks(1.0, 0.95, 0.25, effective=2048),
    )
    write_run(directory, result=result, config=config_of())
    return directory


def test_the_page_shows_scores_depths_positions_and_the_cliff(tmp_path: Path) -> None:
    page = write_run_report(write_example(tmp_path / "run")).read_text()
    text = text_of(page)
    assert "Effective length: 2,048 tokens (before training: 512)" in text
    assert "Beyond the trained 2,048 tokens the mean score changes: -70 points." in text
    assert "LongPPL (tokens that need the long context): 2,048: 4.5" in text
    assert "niah single, by depth of the needle" in text
    assert "10.0 % → 95.0 %" in text
    assert 'style="--share: 0.950"' in page
    for title in ("Loss by position", "Mean task score by length"):
        assert title in text


def test_a_run_from_before_there_were_tasks_reads_as_it_did(tmp_path: Path) -> None:
    write_run(tmp_path / "run", result=result_of(after=evaluation(2.0)), config=config_of())
    assert "How far it reads" not in text_of(write_run_report(tmp_path / "run").read_text())


def test_the_sweeps_table_and_csv_have_the_effective_length_and_the_cliff(tmp_path: Path) -> None:
    write_example(tmp_path / "sweep" / "job")
    cells = collect_sweep(tmp_path / "sweep")
    table = build_table(cells, [], [])
    titles = [column.title for column in table.columns]
    shown = dict(zip(titles, (value.text for value in table.rows[0].values), strict=True))
    assert shown["effective length"] == "2,048"
    assert shown["beyond"] == "-70 points"
    header, row = csv_text(cells).splitlines()
    values = dict(zip(header.split(","), row.split(","), strict=True))
    assert values["effective_length_before"] == "512"
    assert float(values["score_change_beyond"]) == -0.7


def test_what_was_not_measured_has_no_cliff() -> None:
    assert cliff(None, 2048) is None
    assert cliff(evaluation_with_tasks(1.0, 1.0, 0.5, effective=None), 4096) is None
    assert effective_length(evaluation_with_tasks(0, 0, 0, effective=None)) is None


def test_a_score_is_of_the_tasks_that_were_measured_at_every_length(tmp_path: Path) -> None:
    """A hard task that fits the longest length alone takes nothing from it."""
    after = evaluation_with_tasks(1.0, 0.8, 0.8, effective=None)
    after.tasks["common_words"] = {"4096": TaskScore(score=0.0, samples=4)}
    write_run(tmp_path / "a", result=result_of(after=after), config=config_of())
    cells = collect_sweep(tmp_path)
    assert [cells[0].score(n, "after") for n in (512, 2048, 4096)] == [1.0, 0.8, 0.8]
    table = build_answer_table(group_seeds(cells, differences(cells)))
    columns = [i for i, column in enumerate(table.columns) if column.group == "score at"]
    assert [table.rows[0].values[i].text for i in columns] == ["100.0 %", "80.0 %", "80.0 %"]


def test_a_sweep_that_does_no_task_says_so_in_one_column(tmp_path: Path) -> None:
    nothing = evaluation_with_tasks(0.0, 0.0, 0.0, effective=None)
    for name, length in (("a", 2048), ("b", 4096)):
        result = result_of(before=nothing, after=nothing, context_length=length)
        write_run(tmp_path / name, result=result, config=config_of(context_length=length))
    write_failed_cell(tmp_path / "c", length=8192)
    cells = collect_sweep(tmp_path)
    table = build_answer_table(group_seeds(cells, differences(cells)))
    titles = [column.title for column in table.columns]
    assert titles.count("score") == 1
    assert not [column for column in table.columns if column.group == "score at"]
    shown = [row.values[titles.index("score")].text for row in table.rows]
    assert shown == ["0 % at every length", "0 % at every length", "—"]
