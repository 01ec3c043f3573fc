"""Every step of a run counts, its first one too."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainingArguments, get_scheduler

from sft_app.config.schema.trainer import TrainerConfig
from sft_app.training.optim.lr_schedule import learning_rate_sum, without_idle_step
from sft_app.training.optim.muon import muon_for
from sft_app.training.screen.announce import little_training
from tests.training.random_models import build_random_model
from tests.training.training_steps import packed_rows, prepared, trainer_of

PEAK = 1e-2


def rates(tmp_path: Path, steps: int, **args: Any) -> list[float]:
    """The learning rate of each step, as a real run logs it."""
    trainer = trainer_of(
        prepared(build_random_model("llama")),
        tmp_path,
        packed_rows(2),
        max_steps=steps,
        learning_rate=PEAK,
        **args,
    )
    trainer.train()
    return [entry["learning_rate"] for entry in trainer.state.log_history if "loss" in entry]


def test_a_warm_up_begins_at_the_peak_over_its_steps(tmp_path: Path) -> None:
    logged = rates(tmp_path, 6, warmup_steps=4, lr_scheduler_type="linear")
    # After the warm-up: linear from the peak at step 4 to 0 at step 6.
    assert logged == pytest.approx([PEAK / 4, PEAK / 2, PEAK * 3 / 4, PEAK, PEAK, PEAK / 2])


def test_a_run_of_one_step_changes_the_weights(tmp_path: Path) -> None:
    model = build_random_model("llama")
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    trainer = trainer_of(prepared(model), tmp_path, packed_rows(1), warmup_steps=0.03)
    trainer.train()
    assert trainer.state.log_history[0]["learning_rate"] == PEAK
    assert any(not torch.equal(before[name], w) for name, w in model.state_dict().items())


@pytest.mark.parametrize(
    "name", ["linear", "cosine", "constant_with_warmup", "polynomial", "inverse_sqrt"]
)
def test_no_schedule_that_warms_up_has_an_idle_step(name: str, tmp_path: Path) -> None:
    args = TrainingArguments(str(tmp_path), lr_scheduler_type=name, warmup_steps=3, use_cpu=True)
    first_idle = learning_rate_sum(args, 3)
    assert first_idle == pytest.approx(1 / 3 + 2 / 3 + 1)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("polynomial", {"lr_end": 1e-3}), ("cosine_with_min_lr", {"min_lr": 1e-3})],
)
def test_a_schedule_with_a_lowest_rate_has_it_for_muon_as_for_adam(
    tmp_path: Path, name: str, settings: dict[str, float]
) -> None:
    model = build_random_model("llama")
    muon = muon_for(model, TrainerConfig(optim="muon", learning_rate=PEAK))
    schedule: dict[str, Any] = {
        "lr_scheduler_type": name, "lr_scheduler_kwargs": settings, "max_steps": 4,
    }  # fmt: skip
    trainers = [
        trainer_of(prepared(model), tmp_path, packed_rows(2), optimizer, learning_rate=PEAK,
                   **schedule)
        for optimizer in (None, muon)
    ]  # fmt: skip
    of_adam: list[float] = []
    of_muon: list[float] = []
    for trainer, found in zip(trainers, (of_adam, of_muon), strict=True):
        trainer.train()
        found += [e["learning_rate"] for e in trainer.state.log_history if "loss" in e]
    assert of_muon == of_adam
    assert min(of_muon) > 1e-3


def test_a_warm_up_that_is_no_straight_line_keeps_its_form() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    schedule = get_scheduler(
        "warmup_stable_decay", optimizer, num_warmup_steps=4, num_training_steps=12,
        scheduler_specific_kwargs={"num_decay_steps": 4, "warmup_type": "cosine"},
    )  # fmt: skip
    warmed = without_idle_step(schedule, optimizer, 4)
    assert isinstance(warmed, torch.optim.lr_scheduler.LambdaLR)
    (factor,) = warmed.lr_lambdas
    expected = [(1 - math.cos(math.pi * step / 4)) / 2 for step in (1, 2, 3, 4)]
    assert [factor(step) for step in range(4)] == pytest.approx(expected)


def test_what_does_not_warm_up_from_zero_stays_as_it_is() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    same = without_idle_step(constant, optimizer, 3)
    assert isinstance(same, torch.optim.lr_scheduler.LambdaLR)
    (factor,) = same.lr_lambdas
    assert [factor(step) for step in range(4)] == [0.5] * 4
    other = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    assert without_idle_step(other, optimizer, 3) is other


@pytest.mark.parametrize(
    ("settings", "steps", "rows", "words"),
    [
        ({"num_train_epochs": 2}, 4, 1, ["only 4 optimizer steps", "trainer.num_train_epochs=5"]),
        ({}, 1, 16, ["only 1 optimizer step:", "trainer.gradient_accumulation_steps=1"]),
        ({"max_steps": 5}, 5, 1, ["trainer.max_steps=100"]),
        ({"warmup_steps": 900}, 20, 1, ["the model will hardly change", "trainer.warmup_steps"]),
        ({"learning_rate": 0.0}, 200, 1, ["the model will hardly change"]),
        ({}, 10, 4, []),
    ],
)
def test_a_run_that_can_hardly_learn_is_announced_with_the_way_out(
    tmp_path: Path, settings: dict[str, Any], steps: int, rows: int, words: list[str]
) -> None:
    args = TrainingArguments(str(tmp_path), use_cpu=True, **settings)
    said = " ".join(little_training(args, steps, rows))
    assert bool(said) == bool(words)
    assert all(word in said for word in words)
