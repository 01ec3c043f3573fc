"""sweep.csv."""

import csv
import io
from pathlib import Path

from sft_app.records.result import RunError, Status
from sft_app.reporting.sweep.cells import collect_sweep
from sft_app.reporting.sweep.sweep_csv import csv_text, write_sweep_csv
from tests.reporting.example_runs import write_cell, write_failed_cell, write_sweep


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
