"""Held-out loss while training goes: the best checkpoint stays and is loaded, training ends early.

The losses are given, so that it is known which step has to win; what measures them for real is
looked at through the real command (tests/integration).
"""

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import TrainerCallback

from sft_app.common.errors import ConfigError
from sft_app.records.result import LossMeasurement
from sft_app.training.guards.step_guard import TrainingDiverged
from sft_app.training.heldout_trainer import HeldoutMeasure
from sft_app.training.metrics import token_counts
from sft_app.training.saving.checkpoints import numbered
from sft_app.training.sft_trainer import SFTTrainer
from tests.training.training_steps import losses_of, packed_rows, prepared, trainer_of

Make = Callable[..., SFTTrainer]


def given(losses: list[float]) -> Callable[[nn.Module, Callable[[], object]], LossMeasurement]:
    left = iter(losses)

    def measure(model: nn.Module, after_batch: Callable[[], object]) -> LossMeasurement:
        after_batch()
        return LossMeasurement(loss=next(left), perplexity=1.0, tokens=1, examples=1)

    return measure


@pytest.fixture
def make(random_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    monkeypatch.setattr(token_counts, "measure_matmul_rate", lambda device, dtype: 1e9)

    def made(losses: list[float], patience: int | None = None, **args: Any) -> SFTTrainer:
        settings: dict[str, Any] = {
            "max_steps": len(losses), "save_strategy": "steps", "save_steps": 100,
            "save_total_limit": 1, "eval_strategy": "steps", "eval_steps": 1, **args,
        }  # fmt: skip
        heldout = HeldoutMeasure(measure=given(losses), keep_best=True, patience=patience)
        return trainer_of(
            prepared(random_model("llama")), tmp_path / "checkpoints", packed_rows(8),
            heldout=heldout, **settings,
        )  # fmt: skip

    return made


def weights(trainer: SFTTrainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


class KeepWeights(TrainerCallback):
    """Keeps the weights of one step in memory, beside what any checkpoint says."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.kept: dict[str, torch.Tensor] = {}

    def on_step_end(self, args, state, control, model=None, **kwargs) -> None:
        if state.global_step == self.step:
            self.kept = {name: p.detach().clone() for name, p in model.named_parameters()}


def test_the_best_step_stays_beside_the_newest_and_its_weights_are_loaded(
    make: Make, tmp_path: Path
) -> None:
    trainer = make([5.0, 3.0, 4.0, 3.5])
    second = KeepWeights(2)
    trainer.add_callback(second)
    trainer.train()
    kept = [path.name for path in numbered(tmp_path / "checkpoints")]
    assert kept == ["checkpoint-2", "checkpoint-4"]  # save_total_limit=1, and the best one
    assert trainer.load_best() == 2
    loaded = weights(trainer)
    assert all(torch.equal(second.kept[name], tensor) for name, tensor in loaded.items())
    on_disk = load_file(tmp_path / "checkpoints/checkpoint-4/model.safetensors")
    assert any(not torch.equal(on_disk[name], loaded[name]) for name in on_disk)


def test_where_the_best_checkpoint_is_damaged_it_is_said_whose_weights_are_kept(
    make: Make, tmp_path: Path
) -> None:
    """The record named the best step all the same."""
    trainer = make([5.0, 3.0, 4.0, 3.5])
    last = KeepWeights(4)
    trainer.add_callback(last)
    trainer.train()
    (tmp_path / "checkpoints/checkpoint-2/model.safetensors").write_bytes(b"damaged")
    assert trainer.load_best() == 4
    assert all(torch.equal(last.kept[n], tensor) for n, tensor in weights(trainer).items())


def test_measuring_changes_nothing_of_the_training(make: Make) -> None:
    with_it, without = make([3.0, 2.0, 1.0]), make([3.0] * 3, eval_strategy="no")
    with_it.train()
    without.train()
    assert losses_of(with_it) == losses_of(without)


def test_training_ends_early_and_a_run_that_ended_so_takes_no_further_step(make: Make) -> None:
    losses = [5.0, 3.0, 4.0, 3.5, 2.0, 1.0]
    trainer = make(losses, patience=2)
    trainer.train()
    assert trainer.state.global_step == 4
    assert trainer.has_stopped_early
    again = make(losses, patience=2)
    again.train(resume_from_checkpoint=str(Path(again.args.output_dir) / "checkpoint-4"))
    assert again.state.global_step == 4
    assert [one.loss for one in again.measured] == losses[:4]
    again.load_best()
    best = load_file(Path(again.args.output_dir) / "checkpoint-2/model.safetensors")
    assert all(torch.equal(best[name], tensor) for name, tensor in weights(again).items())


class AskToEnd(TrainerCallback):
    """Sends what a scheduler sends, while a step is computed."""

    def __init__(self, trainer: SFTTrainer, step: int) -> None:
        self.trainer, self.step = trainer, step

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        if state.global_step + 1 == self.step:
            self.trainer.guard.signals.received = signal.SIGTERM


@pytest.mark.parametrize("ends_at", [1, 2, 4])
def test_a_step_that_a_signal_kept_from_being_measured_is_measured_when_the_run_goes_on(
    make: Make, ends_at: int
) -> None:
    """The second step is the best, and the fourth the last that patience allows."""
    losses = [5.0, 3.0, 4.0, 3.5, 2.0, 1.0]
    first = make(losses, patience=2)
    first.add_callback(AskToEnd(first, ends_at))
    first.train()
    assert [one.step for one in first.measured] == list(range(1, ends_at))
    rest = make(losses[ends_at - 1 :], patience=2, max_steps=6)
    rest.train(resume_from_checkpoint=str(Path(rest.args.output_dir) / f"checkpoint-{ends_at}"))
    assert [(one.step, one.loss) for one in rest.measured] == list(enumerate(losses[:4], start=1))
    assert rest.has_stopped_early


@pytest.mark.parametrize("schedule", ["reduce_lr_on_plateau", "greedy"])
def test_a_learning_rate_that_follows_held_out_loss_is_that_of_a_run_without_a_signal(
    make: Make, tmp_path: Path, schedule: str
) -> None:
    """Asked to end at the third step, whose loss is the first that halves the rate."""
    settings: dict[str, Any] = {
        "lr_scheduler_type": schedule,
        "lr_scheduler_kwargs": {"patience": 0, "factor": 0.5},
        "max_steps": 5,
    }
    losses = [5.0, 4.0, 6.0, 6.5, 7.0]

    def rates(trainer: SFTTrainer) -> list[float]:
        return [entry["learning_rate"] for entry in trainer.state.log_history if "loss" in entry]

    undisturbed = make(losses, **settings)
    undisturbed.train()
    assert rates(undisturbed)[3] == rates(undisturbed)[2] / 2
    (tmp_path / "checkpoints").rename(tmp_path / "undisturbed")
    first = make(losses, **settings)
    first.add_callback(AskToEnd(first, 3))
    first.train()
    rest = make(losses[2:], **settings)
    rest.train(resume_from_checkpoint=str(Path(rest.args.output_dir) / "checkpoint-3"))
    assert rates(rest) == rates(undisturbed)


@pytest.mark.parametrize("ends_at", [1, 2, 3, 4])
def test_wherever_a_signal_ends_a_run_each_epoch_is_measured_at_its_end(
    make: Make, ends_at: int
) -> None:
    """Two steps an epoch: after the first or third nothing is owed."""
    epochs = {
        "eval_strategy": "epoch", "save_strategy": "epoch", "max_steps": 4,
        "per_device_train_batch_size": 4,
    }  # fmt: skip
    first = make([3.0, 2.0], **epochs)
    first.add_callback(AskToEnd(first, ends_at))
    first.train()
    rest = make([3.0, 2.0][len(first.measured) :], **epochs)
    rest.train(resume_from_checkpoint=str(Path(rest.args.output_dir) / f"checkpoint-{ends_at}"))
    assert [one.step for one in rest.measured] == [2, 4]


def test_a_run_whose_data_give_no_batch_is_not_taken_for_a_complete_one(make: Make) -> None:
    settings = {"eval_strategy": "no", "dataloader_drop_last": True}
    trainer = make([], max_steps=3, per_device_train_batch_size=9, **settings)
    trainer.train()
    with pytest.raises(ConfigError, match=r"step 0 of 3.*8 rows, and a batch takes 9"):
        trainer.check_all_steps_taken()


def test_a_run_that_ended_early_or_at_its_last_step_is_complete(make: Make) -> None:
    for losses, patience in (([5.0, 3.0, 4.0, 3.5, 2.0], 2), ([3.0, 2.0], None)):
        trainer = make(losses, patience=patience)
        trainer.train()
        trainer.check_all_steps_taken()


def test_what_another_run_measured_does_not_count(make: Make, tmp_path: Path) -> None:
    trainer = make([1.0, 2.0])
    trainer.train()
    elsewhere = (tmp_path / "checkpoints").rename(tmp_path / "other")
    later = make([9.0, 8.0], max_steps=4)
    later.train(resume_from_checkpoint=str(elsewhere / "checkpoint-2"))
    assert [(one.step, one.loss) for one in later.measured] == [(3, 9.0), (4, 8.0)]


def test_a_loss_that_is_no_number_ends_the_run(make: Make) -> None:
    with pytest.raises(TrainingDiverged, match="held-out loss after step 2 is nan"):
        make([5.0, float("nan"), 3.0]).train()


class UsesOthers(torch.optim.SGD):
    """Trains weights half as large as those that are to be used, as schedule-free ones average."""

    def eval(self) -> None:
        self._scale(2.0, trained=False)

    def train(self) -> None:
        self._scale(0.5, trained=True)

    @torch.no_grad()
    def _scale(self, factor: float, *, trained: bool) -> None:
        for group in self.param_groups:
            if group.get("train_mode", True) is not trained:
                group["train_mode"] = trained
                for parameter in group["params"]:
                    parameter.mul_(factor)


@pytest.mark.parametrize(("losses", "best"), [([3.0, 2.0, 1.0], 3), ([3.0, 1.0, 2.0], 2)])
def test_what_is_measured_and_kept_is_what_the_optimizer_says_is_to_be_used(
    make: Make, losses: list[float], best: int
) -> None:
    optimizer = {"optimizer_cls_and_kwargs": (UsesOthers, {"lr": 1e-2})}
    trainer = make(losses, save_steps=1, save_total_limit=None, **optimizer)
    assert trainer.heldout is not None
    measured: list[dict[str, torch.Tensor]] = []
    answer = trainer.heldout.measure

    def measure(model: nn.Module, after_batch: Callable[[], object]) -> LossMeasurement:
        measured.append(weights(trainer))
        return answer(model, after_batch)

    trainer.heldout = replace(trainer.heldout, measure=measure)
    trainer.train()
    trainer.load_best()
    trainer.settle_weights()
    for step, used in enumerate(measured, start=1):
        trained = load_file(Path(trainer.args.output_dir) / f"checkpoint-{step}/model.safetensors")
        assert all(torch.equal(2 * trained[name], used[name]) for name in used)
    kept = weights(trainer)
    assert all(torch.equal(kept[name], tensor) for name, tensor in measured[best - 1].items())
