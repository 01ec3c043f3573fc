"""A resume with more steps: the next step has the new schedule's rate, and it is said."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import get_scheduler

from sft_app.training.optim.resumed_schedule import (
    GivenSettings,
    fit_learning_rate,
    note_peaks,
)

PEAK = 8e-4


def linear(num_steps: int, taken: int = 0) -> Any:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=PEAK)
    schedule = get_scheduler("linear", optimizer, num_warmup_steps=0, num_training_steps=num_steps)
    for _ in range(taken):
        optimizer.step()
        schedule.step()
    return schedule


def resumed(before: Any, num_steps: int) -> Any:
    """Let a new schedule take over the state of the old one, as the Trainer does."""
    schedule = linear(num_steps)
    schedule.optimizer.load_state_dict(before.optimizer.state_dict())
    schedule.load_state_dict(before.state_dict())
    return schedule


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    (tmp_path / "trainer_state.json").write_text(json.dumps({"max_steps": 10}))
    return tmp_path


def test_a_finished_run_goes_on_in_the_middle_of_the_longer_schedule(checkpoint: Path) -> None:
    schedule = resumed(linear(10, taken=10), 20)
    assert schedule.optimizer.param_groups[0]["lr"] == 0  # a whole step for nothing
    said = fit_learning_rate(schedule, checkpoint, 20)
    assert schedule.optimizer.param_groups[0]["lr"] == pytest.approx(PEAK / 2)
    assert said is not None
    assert "at step 10 of 20, and no longer of 10" in said
    assert "goes on at 0.0004 where it stood at 0" in said


def test_the_same_number_of_steps_changes_nothing(checkpoint: Path) -> None:
    schedule = resumed(linear(10, taken=3), 10)
    before = schedule.optimizer.param_groups[0]["lr"]
    assert fit_learning_rate(schedule, checkpoint, 10) is None
    assert schedule.optimizer.param_groups[0]["lr"] == before


def reacting(kind: str, rate: float) -> Any:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=rate)
    kwargs = {"patience": 0, "factor": 0.5, "min_lr": 1e-6}
    schedule = get_scheduler(kind, optimizer, scheduler_specific_kwargs=kwargs)
    note_peaks(schedule, optimizer)
    return schedule


@pytest.mark.parametrize(
    ("kind", "losses"), [("reduce_lr_on_plateau", (2.0, 3.0)), ("greedy", (2.0, 3.0, 4.0))]
)
def test_a_schedule_that_reacts_goes_on_at_its_share_of_another_rate(
    kind: str, losses: tuple[float, ...]
) -> None:
    """It has halved 8e-4 (a greedy one had doubled it before); half of 2e-4 is 1e-4."""
    before = reacting(kind, PEAK)
    for loss in losses:
        before.step(loss)
    assert before.get_last_lr() == [pytest.approx(4e-4)]
    schedule = reacting(kind, PEAK / 4)
    given = GivenSettings.of(schedule.optimizer, schedule)
    schedule.optimizer.load_state_dict(before.optimizer.state_dict())
    schedule.load_state_dict(before.state_dict())
    (said,) = given.put_back(schedule.optimizer, schedule)
    assert schedule.optimizer.param_groups[0]["lr"] == pytest.approx(1e-4)
    assert schedule.get_last_lr() == [pytest.approx(1e-4)]
    assert said.endswith("the same share of 0.0002 as of 0.0008")
    assert given.put_back(schedule.optimizer, schedule) == [], "once"


@pytest.mark.parametrize("kind", ["reduce_lr_on_plateau", "greedy"])
def test_a_schedule_that_reacts_goes_on_as_it_is_at_the_same_rate(kind: str) -> None:
    before = reacting(kind, PEAK)
    for loss in (2.0, 3.0):
        before.step(loss)
    schedule = reacting(kind, PEAK)
    given = GivenSettings.of(schedule.optimizer, schedule)
    schedule.optimizer.load_state_dict(before.optimizer.state_dict())
    schedule.load_state_dict(before.state_dict())
    assert given.put_back(schedule.optimizer, schedule) == []
    assert schedule.state_dict() == before.state_dict()
