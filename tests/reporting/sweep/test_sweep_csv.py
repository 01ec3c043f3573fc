"""sweep.csv."""

import csv
import io
from pathlib import Path

from sft_app.records.result import RunError, Status, TaskScore
from sft_app.reporting.sweep.cells import collect_sweep
from sft_app.reporting.sweep.sweep_csv import csv_text, write_sweep_csv
from sft_app.reporting.sweep.sweep_table import build_table
from tests.reporting.example_runs import (
    config_of,
    evaluation,
    result_of,
    write_cell,
    write_failed_cell,
    write_run,
    write_sweep,
)


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_a_line_a_cell_with_its_settings_and_measurements(tmp_path: Path) -> None:
    cells = collect_sweep(write_sweep(tmp_path, lengths=(8192,)), price_per_gpu_hour=2.0)
    path = write_sweep_csv(tmp_path, cells)
    rows = rows_of(path.read_text())
    assert path.name == "sweep.csv"
    assert [row["rope_method"] for row in rows] == ["linear", "none", "yarn"]
    yarn = rows[2]
    assert yarn["cell"] == "context_length-8192_rope-yarn_seed-1"
    assert (yarn["status"], yarn["seed"], yarn["processes"]) == ("completed", "1", "8")
    assert float(yarn["perplexity_at_32768_after"]) < float(yarn["perplexity_at_32768_before"])
    assert float(yarn["cost"]) == 2 * float(yarn["gpu_hours"])


def test_every_setting_that_differs_is_a_column_followers_too(tmp_path: Path) -> None:
    write_cell(tmp_path / "a", length=8192, learning_rate=1e-5)
    write_cell(tmp_path / "b", length=16384, learning_rate=2e-5)
    write_cell(tmp_path / "c", length=16384, learning_rate=1e-5)
    row = rows_of(csv_text(collect_sweep(tmp_path)))[0]
    assert row["trainer.learning_rate"] == "1e-05"
    assert row["tokenizer.model_max_length"] == "8192"


def test_what_was_not_measured_is_empty(tmp_path: Path) -> None:
    write_cell(tmp_path / "a")
    write_failed_cell(tmp_path / "b")
    failed = rows_of(csv_text(collect_sweep(tmp_path)))[1]
    assert failed["status"] == "out_of_memory"
    assert failed["error_type"] == "OutOfMemoryError"
    assert failed["perplexity_at_8192_after"] == ""
    assert failed["tokens_per_second"] == ""


def test_text_that_a_spreadsheet_would_run_is_made_text(tmp_path: Path) -> None:
    error = RunError(type="ValueError", message="=HYPERLINK(1)\nsecond, line")
    write_failed_cell(tmp_path / "a", status=Status.failed, error=error)
    (row,) = rows_of(csv_text(collect_sweep(tmp_path)))
    assert row["error_message"] == "'=HYPERLINK(1)\nsecond, line"


def test_a_sweep_without_cells_has_a_heading(tmp_path: Path) -> None:
    assert csv_text([]) == "cell\n"


def test_no_effective_length_is_another_thing_than_none_that_was_measured(tmp_path: Path) -> None:
    """In the page's table as well: both were an empty field."""
    reaches: dict[str, dict[str, int | None]] = {
        "deaf": {"nolima_85": None}, "hears": {"nolima_85": 2048}, "not asked": {},
    }  # fmt: skip
    for name, found in reaches.items():
        after = evaluation(2.0)
        after.effective_length = found
        after.tasks = {"passkey": {"2048": TaskScore(score=0.0, samples=4)}}
        write_run(tmp_path / name, result=result_of(after=after), config=config_of())
    cells = collect_sweep(tmp_path)
    rows = rows_of(csv_text(cells))
    assert [row["effective_length_after"] for row in rows] == ["0", "2048", ""]
    table = build_table(cells, [], [])
    at = [column.title for column in table.columns].index("effective length")
    assert [row.values[at].text for row in table.rows] == ["none", "2,048", "—"]
