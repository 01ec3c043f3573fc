"""Lines of progress: often enough to follow, few enough to read."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from sft_app.training.callbacks.progress import Progress
from sft_app.training.screen.step_line import short_count, step_line

LOGS = {"loss": 2.5, "learning_rate": 3e-5, "tokens_per_second": 151_234.0, "seconds_left": 75.0}


def shown_steps(steps: int, caplog: pytest.LogCaptureFixture, every: int = 1) -> list[str]:
    progress = Progress()
    with caplog.at_level(logging.INFO, logger="sft_app"):
        for step in range(every, steps + 1, every):
            state: Any = SimpleNamespace(
                global_step=step, max_steps=steps, is_world_process_zero=True
            )
            progress.on_log(None, state, None, {**LOGS, "loss": float(step)})
    return [record.getMessage() for record in caplog.records]


def test_there_is_a_line_for_the_first_step_the_last_and_every_5_percent(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lines = shown_steps(1000, caplog)
    assert 20 <= len(lines) <= 22
    assert lines[0].startswith("step    1/1000") and lines[-1].startswith("step 1000/1000")
    # The loss is the mean since the line before: of steps 2 to 51.
    assert lines[1].startswith("step   51/1000  loss 26.5000")


def test_a_short_run_shows_each_step(caplog: pytest.LogCaptureFixture) -> None:
    assert len(shown_steps(6, caplog)) == 6


def test_a_line_is_due_after_half_a_minute_however_many_steps_there_are(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 100_000, 7))
    monkeypatch.setattr(
        "sft_app.training.callbacks.progress.time.monotonic", lambda: float(next(clock))
    )
    lines = shown_steps(1_000_000, caplog, every=50_000 // 50)
    assert len(lines) > 100


def test_a_narrow_screen_loses_columns_and_never_digits() -> None:
    full = step_line(7, 100, LOGS, width=100)
    assert full == "step   7/100  loss 2.5000  lr 3.00e-05  151k tokens/s  0:01:15 left"
    for width in range(20, 100):
        shown = step_line(7, 100, LOGS, width=width).split("  ")
        assert all(part.strip() in full for part in shown)
    assert step_line(7, 100, LOGS, width=50) == "step   7/100  loss 2.5000  0:01:15 left"
    assert step_line(7, 100, LOGS, width=10) == "step   7/100"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.4, "0"), (940, "940"), (2740, "2.74k"), (151_234, "151k"), (1_204_000, "1.2M")],
)
def test_counts_keep_three_digits(value: float, text: str) -> None:
    assert short_count(value) == text
