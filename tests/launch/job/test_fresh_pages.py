"""Pages are rewritten while a job runs: at once, then seldom, and never at the job's cost."""

import pytest

from sft_app.launch.job.fresh_pages import FreshPage


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr("sft_app.launch.job.fresh_pages.time.monotonic", lambda: now[0])
    return now


def written_at(clock: list[float], seconds: int, cost: float) -> list[float]:
    times = []

    def write() -> None:
        times.append(clock[0])
        clock[0] += cost

    page = FreshPage(write)
    started = clock[0]
    while clock[0] < started + seconds:
        page.refresh()
        clock[0] += 1
    return [time - started for time in times]


def test_at_once_and_then_every_half_minute(clock: list[float]) -> None:
    assert written_at(clock, 100, cost=0.0) == [0, 30, 60, 90]


def test_a_page_that_takes_long_is_written_less_often(clock: list[float]) -> None:
    times = written_at(clock, 2000, cost=5.0)
    assert 5.0 * len(times) <= 0.01 * 2000 + 5.0


def test_a_page_that_cannot_be_written_ends_no_run(clock: list[float]) -> None:
    def fail() -> None:
        raise OSError("no space left")

    FreshPage(fail).refresh()
