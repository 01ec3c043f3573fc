"""A spike of the loss: training goes back to before it, and on without the batches that did it."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, TrainerCallback

from sft_app.config.schema.trainer import OnLossSpike, OnNonfinite
from sft_app.training.guards.loss_spikes import LossSpikes, SpikeRule
from sft_app.training.guards.step_guard import TrainingDiverged
from sft_app.training.metrics import token_counts
from sft_app.training.parallel.fsdp import gather_weights, shard
from sft_app.training.prepare_model import PreparedModel
from sft_app.training.saving.checkpoints import numbered
from sft_app.training.sft_trainer import SFTTrainer
from tests.forked_ranks import on_two_forked_ranks
from tests.newer_transformers import NEEDS_SHARDED_MODELS
from tests.training.random_models import build_random_model
from tests.training.training_steps import packed_rows, prepared, trainer_of

REWIND = SpikeRule(action=OnLossSpike.rewind, threshold=6, window=3)
SETTINGS: dict[str, Any] = {
    "max_steps": 9, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 3,
    "lr_scheduler_type": "cosine",
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second for each trainer."""
    monkeypatch.setattr(token_counts, "measure_matmul_rate", lambda device, dtype: 1e9)


class RuinWeights(TrainerCallback):
    """Does to the weights what a bad update does, after some steps and before they are saved."""

    def __init__(self, after: set[int]) -> None:
        self.after = after

    def on_optimizer_step(self, args, state, control, model=None, **kwargs) -> None:
        if state.global_step + 1 in self.after:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(20)


class StopAfter(TrainerCallback):
    """Ends training after a step, as a signal would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs) -> None:
        control.should_training_stop |= state.global_step == self.step


class PoisonSteps(TrainerCallback):
    """Makes the gradient of some steps infinite: trainer.on_nonfinite=skip leaves them out."""

    def __init__(self, model: torch.nn.Module, steps: set[int]) -> None:
        self.steps, self.step = steps, 0
        next(model.parameters()).register_hook(self._poison)

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        self.step = state.global_step + 1

    def _poison(self, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * (math.inf if self.step in self.steps else 1)


def run_of(
    directory: Path,
    *callbacks: TrainerCallback,
    model: PreparedModel | None = None,
    **settings: Any,
) -> SFTTrainer:
    trainer = trainer_of(
        model or prepared(build_random_model("llama")), directory / "checkpoints", packed_rows(8),
        **{"on_loss_spike": REWIND, **SETTINGS, **settings},
    )  # fmt: skip
    for callback in callbacks:
        trainer.add_callback(callback)
    return trainer


def weights_of(trainer: SFTTrainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def assert_equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


@pytest.fixture
def without_steps_5_and_6(tmp_path: Path) -> dict[str, torch.Tensor]:
    """What a run makes of the weights whose steps 5 and 6 were never taken, by another guard."""
    model = build_random_model("llama")
    trainer = trainer_of(
        prepared(model), tmp_path / "reference/checkpoints", packed_rows(8),
        on_nonfinite=OnNonfinite.skip, **SETTINGS,
    )  # fmt: skip
    trainer.add_callback(PoisonSteps(model, {5, 6}))
    trainer.train()
    assert trainer.guard.skipped_steps == 2
    return weights_of(trainer)


def test_weights_are_those_of_a_run_that_never_took_the_steps_since_the_checkpoint(
    tmp_path: Path, without_steps_5_and_6: dict[str, torch.Tensor]
) -> None:
    """Step 5 ruins the weights, which stand in its checkpoint; the loss of step 6 shows it."""
    trainer = run_of(tmp_path, RuinWeights(after={5}))
    trainer.train()
    (rewind,) = trainer.spikes.rewinds
    assert (rewind.step, rewind.back_to) == (6, 4)
    assert rewind.loss > 1.5 * rewind.usual_loss
    assert trainer.state.global_step == 9
    assert_equal(weights_of(trainer), without_steps_5_and_6)
    logged = [e["loss"] for e in trainer.state.log_history if "loss" in e]
    assert logged[5] == pytest.approx(rewind.loss, rel=1e-4), "the curve shows the spike"
    assert list((tmp_path / "autopsy").glob("step-6-rank-0.json"))


def test_a_run_that_is_started_again_ends_alike_wherever_it_was_cut(
    tmp_path: Path, without_steps_5_and_6: dict[str, torch.Tensor]
) -> None:
    """Cut after step 4, it has to know the losses before; after step 6, that it went back."""
    for step in (4, 6):
        directory = tmp_path / str(step)
        run_of(directory, RuinWeights(after={5}), StopAfter(step)).train()
        rest = run_of(directory, RuinWeights(after={5}))
        newest = numbered(directory / "checkpoints")[-1]
        assert newest.name == f"checkpoint-{step}"
        rest.train(resume_from_checkpoint=str(newest))
        assert [(r.step, r.back_to) for r in rest.spikes.rewinds] == [(6, 4)]
        assert_equal(weights_of(rest), without_steps_5_and_6)


def test_it_ends_where_it_may_not_or_cannot_go_back(tmp_path: Path) -> None:
    once = SpikeRule(action=OnLossSpike.rewind, threshold=6, window=3, max_rewinds=1)
    with pytest.raises(TrainingDiverged, match=r"step 8 is a spike.*has gone back 1 times"):
        run_of(tmp_path / "a", RuinWeights(after={5, 7}), on_loss_spike=once).train()
    with pytest.raises(TrainingDiverged, match="no whole checkpoint from before it, of step 4"):
        run_of(tmp_path / "b", RuinWeights(after={5}), save_steps=5).train()
    stop = SpikeRule(action=OnLossSpike.stop, threshold=6, window=3)
    stopped = run_of(tmp_path / "c", RuinWeights(after={5}), on_loss_spike=stop)
    with pytest.raises(TrainingDiverged, match=r"step 6 is a spike: its loss is .* was usual"):
        stopped.train()
    assert stopped.state.global_step == 5


def test_a_spike_is_so_many_standard_deviations_above_the_window() -> None:
    spikes = LossSpikes(SpikeRule(action=OnLossSpike.stop, threshold=2, window=4))
    for loss in (1.0, 2.0, 3.0, 4.0):  # mean 2.5, standard deviation 1.29
        assert spikes.judge(loss) is None
    spike = spikes.judge(5.1)
    assert spike is not None and spike.mean == 2.5
    assert spike.deviation == pytest.approx(1.2910, abs=1e-4)
    assert spikes.judge(5.05) is None, "2.5 + 2 x 1.291 is the limit, and the spike is not counted"
    ignoring = LossSpikes(SpikeRule(window=4))
    assert [ignoring.judge(loss) for loss in (1.0, 1.0, 1.0, 1.0, 99.0)] == [None] * 5


def on_a_rank(directory: Path, sharded: bool) -> tuple[list[tuple[int, int]], dict[str, Any]]:
    model = prepared(build_random_model("llama"))
    if sharded:
        assert isinstance(model.model, PreTrainedModel)
        shard(model.model, model.model, torch.device("cpu"))
        model = replace(model, sharded=True)
    trainer = run_of(directory, RuinWeights(after={5}), model=model, per_device_train_batch_size=4)
    trainer.train()
    whole = gather_weights(trainer.model) if sharded else weights_of(trainer)
    weights = {name: tensor.numpy() for name, tensor in whole.items()}
    return [(r.step, r.back_to) for r in trainer.spikes.rewinds], weights


@pytest.mark.parametrize("sharded", [False, pytest.param(True, marks=NEEDS_SHARDED_MODELS)])
def test_two_ranks_go_back_together_as_one_process_does(tmp_path: Path, sharded: bool) -> None:
    alone = run_of(tmp_path / "alone", RuinWeights(after={5}), per_device_train_batch_size=8)
    alone.train()
    (first, ours), (second, _) = on_two_forked_ranks(on_a_rank, tmp_path, sharded)
    assert first == second == [(6, 4)]
    for name, tensor in weights_of(alone).items():
        torch.testing.assert_close(torch.from_numpy(ours[name]), tensor, atol=1e-4, rtol=1e-3)
