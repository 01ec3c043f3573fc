"""sft-report, as it is called."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sft_app.records.result import RunError, Status
from sft_app.report import main
from tests.reporting.example_runs import (
    metrics_of,
    result_of,
    write_cell,
    write_failed_cell,
    write_run,
    write_sweep,
)


def test_a_run_is_printed_and_written(
    completed_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(completed_run)]) == 0
    shown = capsys.readouterr().out
    assert "completed  Held-out loss fell from 2.6000 to 1.9800" in shown
    assert shown.splitlines()[-1] == str(completed_run / "report.html")
    assert (completed_run / "report.html").is_file()


def test_a_sweep_is_printed_as_a_table_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = write_sweep(tmp_path / "lengths", lengths=(8192, 32768))
    write_failed_cell(sweep / "oom")
    write_run(sweep / "now", result=result_of(status=Status.running), metrics=metrics_of(5))
    assert main([str(sweep), "--price-per-gpu-hour", "2"]) == 0
    shown = capsys.readouterr().out
    assert "8 cells: 6 completed, 1 running, 1 out of memory." in shown
    assert "1 × out of memory at 65,536: OutOfMemoryError: CUDA out of memory." in shown
    assert "now: step 5, last written" in shown
    assert "Best: yarn at 32,768 tokens. perplexity at 32,768 tokens: 6.39" in shown
    assert "cost" in shown
    assert shown.splitlines()[-2:] == [str(sweep / "sweep.csv"), str(sweep / "report.html")]


def test_of_many_cells_the_best_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = write_sweep(tmp_path / "many", seeds=tuple(range(8)), steps=2)
    assert main([str(sweep)]) == 0
    shown = capsys.readouterr().out
    assert "... and 52 more cells in the report." in shown
    assert shown.splitlines()[2].split()[:4] == ["completed", "32k", "yarn", "×"]


def test_of_outputs_the_newest_is_taken_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for time in ("10-00-00", "11-00-00"):
        write_run(tmp_path / "2026-11-21" / time, result=result_of(), metrics=metrics_of(3))
    os.utime(tmp_path / "2026-11-21" / "10-00-00" / "result.json", (2e9, 2e9))
    assert main([str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    newest = tmp_path / "2026-11-21" / "10-00-00"
    listed = [line.split()[0] for line in lines[1:3]]
    assert listed == ["2026-11-21/10-00-00", "2026-11-21/11-00-00"], "the newest first"
    assert f"The newest of 2 runs and sweeps is the run {newest}" in lines


@pytest.mark.parametrize("name", ["nothing-here", "."])
def test_a_directory_without_runs_ends_in_one_sentence(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / name)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("sft-report: ")
    assert captured.err.count("\n") == 1


def test_a_file_can_neither_style_the_terminal_nor_move_its_cursor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = RunError(type="[red]E[/red]", message="\x1b[2J\x1b[Hgone [bold]x[/bold] [/]")
    write_failed_cell(tmp_path / "a", status=Status.failed, error=error)
    write_cell(tmp_path / "b", method="[blink]m[/blink]")
    assert main([str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "[red]E[/red]:" in shown
    assert "[blink]m[/blink]" in shown


def test_a_price_that_is_none_is_refused(tmp_path: Path) -> None:
    for price in ("-1", "nan", "much"):
        with pytest.raises(SystemExit) as stop:
            main([str(tmp_path), "--price-per-gpu-hour", price])
        assert stop.value.code == 2


def test_options_that_change_nothing_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [str(write_run(tmp_path / name, result=result_of())) for name in ("a", "b")]
    assert main([runs[0], "--best-by", "cliff"]) == 0
    assert capsys.readouterr().err == "sft-report: --best-by has no effect on a single run.\n"
    assert main([*runs, "--leaderboard"]) == 0
    assert "--leaderboard has no effect on the comparison of several" in capsys.readouterr().err


def test_the_command_imports_nothing_heavy_before_it_has_printed() -> None:
    code = (
        "import sys, sft_app.report; "
        "print([m for m in ('torch', 'transformers', 'matplotlib', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_installed_command_reports_a_run_and_a_sweep(
    run_command: Callable[..., subprocess.CompletedProcess[str]], completed_run: Path
) -> None:
    sweep = write_sweep(completed_run.parent / "sweeps" / "lengths", lengths=(8192,), steps=3)
    for folder, words in ((completed_run, "Held-out loss fell"), (sweep, "3 cells: 3 completed.")):
        answer = run_command("sft-report", folder.name, cwd=folder.parent)
        assert answer.returncode == 0, answer.stderr
        assert words in answer.stdout
        assert answer.stderr == ""
        page = (folder / "report.html").read_text(encoding="utf-8")
        assert page.startswith("<!doctype html>") and "<svg" in page
    assert len((sweep / "sweep.csv").read_text().splitlines()) == 4
