"""sft-report on many runs, and on two."""

import io
import os
from pathlib import Path

import pytest
from rich.console import Console

from sft_app.records.result import Status
from sft_app.report import main
from sft_app.reporting.run.find_runs import find
from sft_app.reporting.terminal.compare_runs import print_comparison
from sft_app.reporting.terminal.list_runs import print_list
from tests.reporting.example_runs import (
    config_of,
    evaluation,
    metrics_of,
    result_of,
    write_run,
    write_sweep,
)


def run_in(folder: Path, *, age: int, loss: float, rate: float, status: str = "completed") -> Path:
    write_run(
        folder,
        result=result_of(
            status=Status(status), before=evaluation(3.0), after=evaluation(loss, {512: loss})
        ),
        config=config_of(learning_rate=rate),
        metrics=metrics_of(3),
    )
    for path in folder.rglob("*"):
        os.utime(path, (2e9 - age, 2e9 - age))
    return folder


def test_a_folder_of_runs_is_listed_newest_first_with_status_loss_and_length(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_in(tmp_path / "2026-11-20" / "old", age=500, loss=2.25, rate=1e-5, status="failed")
    run_in(tmp_path / "2026-11-21" / "new", age=5, loss=2.125, rate=1e-5)
    write_sweep(tmp_path / "sweeps" / "lengths", lengths=(8192, 16384), steps=2)
    for path in (tmp_path / "sweeps").rglob("*"):
        os.utime(path, (2e9 - 50, 2e9 - 50))
    assert main([str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["where", "status", "context"]
    assert [line.split()[0] for line in lines[1:4]] == [
        "2026-11-21/new", "sweeps/lengths", "2026-11-20/old",
    ]  # fmt: skip
    assert all(word in lines[1] for word in ("completed", "2,048", "2.1250"))
    assert all(word in lines[2] for word in ("6 completed", "8k, 16k", "sweeps/lengths"))
    assert "failed" in lines[3]


def test_two_runs_are_compared_by_what_differs_and_what_came_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run_in(tmp_path / "a", age=5, loss=2.25, rate=1e-5)
    second = run_in(tmp_path / "b", age=4, loss=2.125, rate=3e-5)
    assert main([str(first), str(second)]) == 0
    rows = {
        " ".join(line.split()[:-2]): line.split()[-2:]
        for line in capsys.readouterr().out.splitlines()
    }
    assert rows["trainer.learning_rate"] == ["1e-05", "3e-05"]
    assert rows["held-out loss after"] == ["2.2500", "2.1250"]
    assert "seed" not in rows, "what is equal in both is left out"
    assert not list(tmp_path.rglob("report.html")), "nothing is written"


def test_comparing_what_is_no_run_ends_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_in(tmp_path / "a", age=5, loss=2.25, rate=1e-5)
    (tmp_path / "empty").mkdir()
    assert main([str(run), str(tmp_path / "empty")]) == 2
    assert "is no run" in capsys.readouterr().err


@pytest.mark.parametrize("width", [80, 140])
def test_on_any_screen_the_list_says_where_and_how_good(width: int, tmp_path: Path) -> None:
    run_in(tmp_path / "2026-11-20" / "17-42-33", age=500, loss=2.25, rate=1e-5)
    write_sweep(tmp_path / "sweeps" / "context_sweep", lengths=(8192, 16384, 32768), steps=2)
    screen = io.StringIO()
    found = find(tmp_path)
    assert found is not None
    print_list(found, tmp_path, Console(file=screen, width=width, highlight=False))
    text = screen.getvalue()
    assert "2026-11-20/17-42-33" in text and "sweeps/context_sweep (sweep)" in text
    assert "2.2500" in text and "8k, 16k, 32k" in text


def test_long_names_leave_no_run_out_of_the_comparison(tmp_path: Path) -> None:
    runs = [
        run_in(tmp_path / ("a-long-name-" * 5 + str(n)), age=5, loss=2.0 + n / 8, rate=1e-5)
        for n in range(3)
    ]
    screen = io.StringIO()
    print_comparison(runs, Console(file=screen, width=80, highlight=False))
    lines = screen.getvalue().splitlines()
    assert lines[1] == f"(B) {runs[1]}"
    after = next(line for line in lines if line.startswith("held-out loss after"))
    assert after.split()[-3:] == ["2.0000", "2.1250", "2.2500"]
    assert "left out" not in screen.getvalue()
    assert max(len(line) for line in lines[3:]) <= 80
