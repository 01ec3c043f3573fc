"""Every kind of page in a real browser, as wide as a desk and as a phone, in light and dark.

The screenshots are kept in pytest's temporary folder (or in SFT_SCREENSHOTS), to be looked at.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sft_app.records.evaluation_file import write_evaluation
from sft_app.records.result import RunError, Status
from sft_app.reporting.leaderboard.leaderboard_page import write_leaderboard
from sft_app.reporting.run.evaluation_report import write_evaluation_report
from sft_app.reporting.run.run_report import write_run_report
from sft_app.reporting.sweep.sweep_report import write_sweep_report
from tests.reporting.browser import DARK, LIGHT, find_chromium, measure, screenshot
from tests.reporting.example_runs import (
    completed_run_in,
    config_of,
    metrics_of,
    plan_of,
    result_of,
    write_cell,
    write_failed_cell,
    write_run,
    write_sweep,
)
from tests.reporting.run.test_long_context import evaluation_with_tasks, write_example

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(find_chromium() is None, reason="chromium is not installed"),
]


def completed_run(folder: Path) -> Path:
    return write_run_report(completed_run_in(folder))


def running_run(folder: Path) -> Path:
    result = result_of(status=Status.running, model=f"org/{'a-very-long-name-' * 6}model")
    write_run(folder, result=result, config=config_of(), plan=plan_of(), metrics=metrics_of(12))
    return write_run_report(folder)


def failed_run(folder: Path) -> Path:
    error = RunError(type="ValueError", message="x" * 300, traceback=f"File {'y' * 400}\n" * 30)
    write_run(folder, result=result_of(status=Status.failed, error=error), config=config_of())
    return write_run_report(folder)


def sweep_with_seeds(folder: Path) -> Path:
    write_sweep(folder, seeds=(1, 2, 3))
    write_failed_cell(folder / "oom", length=65536)
    write_run(folder / "running", config=config_of(context_length=65536), metrics=metrics_of(12))
    return write_sweep_report(folder, 2.5)


def wide_sweep(folder: Path) -> Path:
    for rate in (1e-6, 2e-5, 3e-4):
        write_sweep(folder, lengths=(4096, 8192, 131072), seeds=(int(rate * 1e6),),
                    learning_rate=rate, lr_scheduler_type=f"a-long-value-{rate}")  # fmt: skip
    return write_sweep_report(folder)


def close_sweep(folder: Path) -> Path:
    """Perplexities so close that an axis of round numbers would have none."""
    for number, method in enumerate(("yarn", "linear", "abf")):
        write_cell(folder / method, method="yarn", bonus=0.0001 * number, seed=number)
    return write_sweep_report(folder)


def leaderboard(folder: Path) -> Path:
    pytest.importorskip("scipy", reason="the extra leaderboard is not installed")
    write_sweep(folder, seeds=(1, 2, 3))
    for cell in folder.iterdir():
        write_run(cell, plan=plan_of())
    write_failed_cell(folder / "oom", length=65536)
    return write_leaderboard(folder)[-1]


def an_evaluation(folder: Path) -> Path:
    folder.mkdir(parents=True)
    measured = evaluation_with_tasks(1.0, 0.95, 0.25, effective=2048)
    about = {"model": f"org/{'a-long-name-' * 5}model", "context_length": 2048}
    write_evaluation(folder, measured, about)
    return write_evaluation_report(folder)


def run_with_tasks(folder: Path) -> Path:
    return write_run_report(write_example(folder))


PAGES: list[Callable[[Path], Path]] = [
    completed_run, running_run, failed_run, sweep_with_seeds, wide_sweep, close_sweep,
    leaderboard, an_evaluation, run_with_tasks,
]  # fmt: skip


@pytest.mark.parametrize("make", PAGES)
def test_a_page_fits_and_its_figures_show_something(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    page = make(tmp_path / "sweeps" / make.__name__)
    pictures = Path(os.environ.get("SFT_SCREENSHOTS", tmp_path))
    backgrounds = set()
    for width in (1280, 390):
        for scheme in (LIGHT, DARK):
            seen = measure(page, tmp_path, width=width, scheme=scheme)
            assert seen["width"] == width
            assert seen["page"] <= width, f"the page is {seen['page']} wide: {seen['wide'][:3]}"
            assert not seen["wide"]
            hidden = [box for box in seen["hidden"] if width == 390 or 'id="answers"' in box]
            assert not hidden, "a part of a table is outside of the screen"
            for figure in seen["figures"]:
                assert figure["width"] > 200 and figure["height"] > 100
                assert figure["marks"] or figure["points"], "an empty figure"
                numbers = [text for text in figure["numbers"] if any(map(str.isdigit, text))]
                assert len(numbers) >= 3, f"axes without numbers: {figure['numbers']}"
            backgrounds.add(seen["background"])
            name = f"{make.__name__}-{width}-{'dark' if scheme == DARK else 'light'}.png"
            screenshot(page, pictures / name, width=width, height=2400, scheme=scheme)
            assert (pictures / name).stat().st_size > 10_000
    assert len(backgrounds) == 2, "dark is not light"
