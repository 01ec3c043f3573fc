"""What a checkpoint holds, and what a full disk leaves: the last good state, and one sentence."""

import errno
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sft_app.common.errors import ConfigError
from sft_app.config.schema.adapter import AdapterConfig, AdapterMethod
from sft_app.records import disk_space
from sft_app.records.disk_space import DiskFull
from sft_app.records.manifest import damage_of, write_manifest
from sft_app.training.metrics import token_counts
from sft_app.training.parallel.fsdp import shard
from sft_app.training.saving import checkpointing_trainer
from sft_app.training.saving.checkpoints import numbered
from sft_app.training.sft_trainer import SFTTrainer
from tests.forked_ranks import on_two_forked_ranks
from tests.newer_transformers import NEEDS_SHARDED_MODELS
from tests.training.random_models import build_random_model
from tests.training.training_steps import packed_rows, prepared, trainer_of


@pytest.fixture(autouse=True)
def no_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second for each trainer."""
    monkeypatch.setattr(token_counts, "measure_matmul_rate", lambda device, dtype: 1e9)


@pytest.fixture
def trainer(random_model, tmp_path) -> SFTTrainer:
    return trainer_of(
        prepared(random_model("llama")), tmp_path / "checkpoints", packed_rows(8),
        max_steps=3, save_strategy="steps", save_steps=1,
    )  # fmt: skip


def test_a_checkpoint_lists_all_its_files_and_what_it_is_of(
    trainer: SFTTrainer, tmp_path: Path
) -> None:
    (tmp_path / "identity.json").write_text("who it is")
    trainer.train()
    checkpoint = tmp_path / "checkpoints/checkpoint-3"
    assert damage_of(checkpoint) is None
    listed = json.loads((checkpoint / "manifest.json").read_text())
    assert (listed["step"], listed["all_finite"]) == (3, True)
    assert set(listed["files"]) == {p.name for p in checkpoint.iterdir()} - {"manifest.json"}
    assert (checkpoint / "identity.json").read_text() == "who it is"


def test_without_room_nothing_is_written_and_the_place_is_named(
    trainer: SFTTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []

    def free(folder: Path) -> int:
        seen.append(folder)
        return 10**12 if len(seen) == 1 else 1000

    monkeypatch.setattr(disk_space, "free_bytes", free)
    with pytest.raises(DiskFull, match=r"checkpoint of step 2 needs .* and 1,000 bytes are free"):
        trainer.train()
    assert seen[0] == tmp_path / "checkpoints"
    assert damage_of(tmp_path / "checkpoints/checkpoint-1") is None
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["checkpoint-1"]


def test_a_disk_that_fills_while_saving_leaves_nothing_half_written(
    trainer: SFTTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = write_manifest

    def full_at_step_2(folder: Path, *, step: int, all_finite: bool) -> None:
        if step == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(folder, step=step, all_finite=all_finite)

    monkeypatch.setattr(checkpointing_trainer, "write_manifest", full_at_step_2)
    with pytest.raises(DiskFull, match=r"save_total_limit=1"):
        trainer.train()
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["checkpoint-1"]


def test_storage_that_keeps_a_save_waiting_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(checkpointing_trainer, "SECONDS_OF_A_MINUTE", 0.01)
    with checkpointing_trainer.told_when_slow("the checkpoint of step 3", tmp_path):
        while len(caplog.messages) < 2:
            time.sleep(0.01)
    told = f"the checkpoint of step 3 has been written to {tmp_path} for 2 minutes"
    assert caplog.messages[1] == told


def a_run(random_model, tmp_path: Path, **settings: Any) -> SFTTrainer:
    return trainer_of(
        prepared(random_model("llama")), tmp_path / "checkpoints", packed_rows(8),
        **{"max_steps": 6, "save_strategy": "steps", "save_steps": 2, **settings},
    )  # fmt: skip


def steps_logged(trainer: SFTTrainer) -> list[int]:
    return [entry["step"] for entry in trainer.state.log_history if "loss" in entry]


def test_a_resumed_run_saves_and_logs_as_often_as_it_is_told_now(
    random_model, tmp_path: Path
) -> None:
    first = a_run(random_model, tmp_path, max_steps=2, logging_steps=2)
    first.train()
    rest = a_run(random_model, tmp_path, save_steps=1, logging_steps=1)
    rest.train(resume_from_checkpoint=str(tmp_path / "checkpoints/checkpoint-2"))
    assert [path.name for path in numbered(tmp_path / "checkpoints")] == [
        f"checkpoint-{step}" for step in (2, 3, 4, 5, 6)
    ]
    assert steps_logged(rest) == [2, 3, 4, 5, 6]


@pytest.mark.parametrize("sharded", [False, pytest.param(True, marks=NEEDS_SHARDED_MODELS)])
def test_a_resumed_run_trains_with_the_optimizers_settings_that_it_is_given(
    tmp_path: Path, sharded: bool
) -> None:
    """A checkpoint's optimizer and schedule hold those of before; they are said, and replaced."""
    if sharded:
        on_two_forked_ranks(_resume_with_other_settings, tmp_path, True)
    else:
        _resume_with_other_settings(tmp_path, False)


def _resume_with_other_settings(tmp_path: Path, sharded: bool) -> None:
    def a_run_of(**settings: Any) -> SFTTrainer:
        model = prepared(build_random_model("llama"))
        if sharded:
            shard(model.model, model.model, torch.device("cpu"))
            model = replace(model, sharded=True)
        return trainer_of(
            model, tmp_path / "checkpoints", packed_rows(8), max_steps=4,
            save_strategy="steps", save_steps=2, lr_scheduler_type="constant", **settings,
        )  # fmt: skip

    a_run_of(weight_decay=0.1).train()
    rest = a_run_of(
        learning_rate=1e-5, weight_decay=0.5, adam_beta1=0.7, adam_beta2=0.5, adam_epsilon=1e-3
    )
    rest.train(resume_from_checkpoint=str(tmp_path / "checkpoints/checkpoint-2"))
    decayed, others = rest.optimizer.param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.5, 0.0)
    for group in (decayed, others):
        assert (group["lr"], tuple(group["betas"]), group["eps"]) == (1e-5, (0.7, 0.5), 1e-3)
    rates = [e["learning_rate"] for e in rest.state.log_history if "loss" in e]
    assert rates == [1e-2, 1e-2, 1e-5, 1e-5]


@pytest.mark.parametrize(
    ("changed", "says"),
    [({"rank": 2}, "the adapter of .*checkpoint-1 is not the one"),
     ({"targets": ["q_proj"]}, "the (adapter|optimizer) of .*checkpoint-1 is not the one")],
)  # fmt: skip
def test_the_state_of_other_parameters_is_told_with_the_way_out(
    tmp_path: Path, changed: dict[str, Any], says: str
) -> None:
    def a_run_of(rank: int = 4, targets: Sequence[str] = ("q_proj", "v_proj")) -> SFTTrainer:
        adapter = AdapterConfig(method=AdapterMethod.lora, rank=rank, target_modules=list(targets))
        return trainer_of(
            prepared(build_random_model("llama"), adapter), tmp_path / "checkpoints",
            packed_rows(8), max_steps=2, save_strategy="steps", save_steps=1,
        )  # fmt: skip

    a_run_of().train()
    checkpoint = str(tmp_path / "checkpoints/checkpoint-1")
    with pytest.raises(ConfigError, match=f"{says}.*resume_from_checkpoint=never"):
        a_run_of(**changed).train(resume_from_checkpoint=checkpoint)


def test_an_optimizer_of_other_groups_is_told_with_the_way_out(
    random_model, tmp_path: Path
) -> None:
    """Which parameters a decay is for can change between versions."""
    a_run(random_model, tmp_path, max_steps=2, save_steps=2).train()
    file = tmp_path / "checkpoints/checkpoint-2/optimizer.pt"
    state = torch.load(file, weights_only=True)
    first, second = state["param_groups"]
    second["params"].append(first["params"].pop())
    torch.save(state, file)
    with pytest.raises(ConfigError, match=r"the optimizer of .*checkpoint-2 is not the one"):
        a_run(random_model, tmp_path).train(resume_from_checkpoint=str(file.parent))


def test_float32_statistics_of_16_bit_weights_come_back_as_they_were(tmp_path: Path) -> None:
    """Adafactor's: PyTorch rounds what it loads to the dtype of the weights."""
    ends = []
    for checkpoint in (None, str(tmp_path / "checkpoints/checkpoint-2")):
        trainer = trainer_of(
            prepared(build_random_model("llama").bfloat16()), tmp_path / "checkpoints",
            packed_rows(8), max_steps=4, optim="adafactor", save_strategy="steps", save_steps=2,
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=checkpoint)
        ends.append(dict(trainer.model.named_parameters()))
    assert all(torch.equal(ends[0][name], tensor) for name, tensor in ends[1].items())
