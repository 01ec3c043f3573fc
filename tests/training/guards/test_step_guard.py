"""A loss or gradient that is no number changes no weight, and no such weight is saved."""

import hashlib
import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from sft_app.config.schema.trainer import OnNonfinite
from sft_app.records.manifest import damage_of
from sft_app.training.guards.step_guard import TrainingDiverged, clip_gradients, gradient_norm
from sft_app.training.metrics import token_counts
from sft_app.training.sft_trainer import SFTTrainer
from tests.training.training_steps import packed_rows, prepared, trainer_of


def digest(model: torch.nn.Module) -> str:
    parts = [p.detach().numpy().tobytes() for p in model.parameters()]
    return hashlib.sha256(b"".join(parts)).hexdigest()


@pytest.fixture(autouse=True)
def no_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second for each trainer."""
    monkeypatch.setattr(token_counts, "measure_matmul_rate", lambda device, dtype: 1e9)


class PoisonGradient(TrainerCallback):
    """Makes one gradient infinite after the last backward of some steps, as an overflow would."""

    def __init__(self, model: torch.nn.Module, steps: set[int]) -> None:
        self.name, self.parameter = next(iter(model.named_parameters()))
        self.steps = steps
        self.step = 0
        self.parameter.register_hook(self._poison)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.step = state.global_step + 1

    def _poison(self, gradient: torch.Tensor) -> torch.Tensor:
        if self.step in self.steps:
            gradient = gradient.clone()
            gradient.view(-1)[0] = math.inf
        return gradient


def a_run(
    random_model: Any, directory: Path, poisoned: set[int], **args: Any
) -> tuple[SFTTrainer, PoisonGradient]:
    model = random_model("llama")
    trainer = trainer_of(prepared(model), directory / "checkpoints", packed_rows(8), **args)
    poison = PoisonGradient(model, poisoned)
    trainer.add_callback(poison)
    return trainer, poison


@pytest.mark.parametrize("max_grad_norm", [1.0, 0.0])
def test_an_infinite_gradient_stops_the_run_before_anything_changes(
    random_model, tmp_path, max_grad_norm
):
    trainer, poison = a_run(
        random_model, tmp_path, {3}, max_steps=5, save_strategy="steps", save_steps=1,
        max_grad_norm=max_grad_norm,
    )  # fmt: skip
    with pytest.raises(TrainingDiverged, match="gradient of step 3 is not finite"):
        trainer.train()
    kept = sorted(path.name for path in (tmp_path / "checkpoints").glob("checkpoint-*"))
    assert kept == ["checkpoint-1", "checkpoint-2"]
    weights = load_file(tmp_path / "checkpoints/checkpoint-2/model.safetensors")
    assert all(
        torch.equal(weights[n], p) for n, p in trainer.model.named_parameters() if n in weights
    )
    (autopsy,) = (tmp_path / "autopsy").glob("*.json")
    told = json.loads(autopsy.read_text())
    assert told["step"] == 3
    assert told["nonfinite_gradients"] == {"count": 1, "names": [poison.name]}
    assert told["nonfinite_weights"]["count"] == 0
    assert told["rows"]
    assert told["last_metrics"][-1]["step"] == 2


def test_skipping_leaves_out_exactly_that_step(random_model, tmp_path):
    trainer, _ = a_run(
        random_model, tmp_path, {2}, max_steps=3, on_nonfinite=OnNonfinite.skip,
        optim="sgd", lr_scheduler_type="constant",
    )  # fmt: skip
    seen = []

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen.append(digest(kwargs["model"]))

    trainer.add_callback(Watch())
    trainer.train()
    assert seen[0] == seen[1] != seen[2]
    assert trainer.guard.skipped_steps == 1
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert [math.isfinite(loss) for loss in losses] == [True, False, True]
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())


def test_a_mean_over_several_steps_counts_those_that_were_taken(random_model, tmp_path):
    runs = {}
    for name, poisoned in (("clean", set()), ("skipped", {2})):
        trainer, _ = a_run(
            random_model, tmp_path / name, poisoned, max_steps=2, on_nonfinite=OnNonfinite.skip,
            logging_steps=2, logging_first_step=False,
        )  # fmt: skip
        trainer.train()
        runs[name] = [e["loss"] for e in trainer.state.log_history if "loss" in e]
    single, _ = a_run(random_model, tmp_path / "one", set(), max_steps=1)
    single.train()
    assert runs["skipped"] == pytest.approx([single.state.log_history[0]["loss"]])
    assert runs["clean"] != runs["skipped"]


def test_a_run_that_goes_on_still_counts_the_steps_that_were_left_out_before(
    random_model, tmp_path
):
    settings = {"on_nonfinite": OnNonfinite.skip, "save_strategy": "steps", "save_steps": 2}
    a_run(random_model, tmp_path, {2}, max_steps=2, **settings)[0].train()
    rest, _ = a_run(random_model, tmp_path, {4}, max_steps=5, **settings)
    rest.train(resume_from_checkpoint=str(tmp_path / "checkpoints/checkpoint-2"))
    assert rest.guard.skipped_steps == 2


def test_skipping_ends_when_every_step_is_like_that(random_model, tmp_path):
    trainer, _ = a_run(
        random_model, tmp_path, set(range(99)), max_steps=50, on_nonfinite=OnNonfinite.skip
    )
    with pytest.raises(TrainingDiverged, match="step 11"):
        trainer.train()


def test_starting_again_allows_no_more_such_steps_in_a_row(random_model, tmp_path):
    settings = {"on_nonfinite": OnNonfinite.skip, "save_strategy": "steps", "save_steps": 8}
    a_run(random_model, tmp_path, set(range(99)), max_steps=8, **settings)[0].train()
    rest, _ = a_run(random_model, tmp_path, set(range(99)), max_steps=50, **settings)
    with pytest.raises(TrainingDiverged, match="step 11"):
        rest.train(resume_from_checkpoint=str(tmp_path / "checkpoints/checkpoint-8"))


def test_weights_that_an_update_has_ruined_are_not_saved(random_model, tmp_path):
    """Loss and gradient of the only step are finite: what is wrong is the learning rate."""
    trainer, _ = a_run(
        random_model, tmp_path, set(), max_steps=1, learning_rate=1e38, save_strategy="steps",
        warmup_steps=0, lr_scheduler_type="constant", weight_decay=1.0,
    )  # fmt: skip
    with pytest.raises(TrainingDiverged, match="weights are no numbers any more after step 1"):
        trainer.train()
    assert not list((tmp_path / "checkpoints").glob("checkpoint-*"))


def test_resuming_at_the_end_takes_no_step(random_model, tmp_path):
    args: dict[str, Any] = {"max_steps": 3, "save_strategy": "steps", "save_steps": 3}
    trainer, _ = a_run(random_model, tmp_path, set(), **args)
    trainer.train()
    checkpoint = tmp_path / "checkpoints/checkpoint-3"
    assert damage_of(checkpoint) is None
    written = checkpoint.stat().st_mtime_ns
    again, _ = a_run(random_model, tmp_path, set(), **args)
    again.train(resume_from_checkpoint=str(checkpoint))
    assert again.state.global_step == 3
    assert digest(again.model) == digest(trainer.model)
    assert checkpoint.stat().st_mtime_ns == written


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_ends_training_after_its_step_with_a_checkpoint_that_goes_on_exactly(
    random_model, tmp_path, signum
):
    args: dict[str, Any] = {"max_steps": 4, "save_strategy": "steps", "save_steps": 100}
    whole, _ = a_run(random_model, tmp_path / "whole", set(), **args)
    whole.train()

    class Send(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 1:
                os.kill(os.getpid(), signum)

    cut, _ = a_run(random_model, tmp_path / "cut", set(), **args)
    cut.add_callback(Send())
    with cut.guard.signals.noticed():
        cut.train()
    assert (cut.stopped_by, cut.state.global_step) == (signum, 2)
    rest, _ = a_run(random_model, tmp_path / "cut", set(), **args)
    rest.train(resume_from_checkpoint=str(tmp_path / "cut/checkpoints/checkpoint-2"))
    assert digest(rest.model) == digest(whole.model)


def test_the_norm_is_torchs_own_and_clips_alike(random_model):
    ours, theirs = random_model("llama"), random_model("llama")
    for model in (ours, theirs):
        torch.manual_seed(1)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
    norm = gradient_norm(ours.parameters())
    clip_gradients(ours.parameters(), 0.5, norm)
    assert norm == torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
    for our, their in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(our.grad, their.grad)
