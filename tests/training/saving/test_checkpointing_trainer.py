"""What a checkpoint holds, and what a full disk leaves: the last good state, and one sentence."""

import errno
import json
import time
from pathlib import Path

import pytest

from sft_app.records import disk_space
from sft_app.records.disk_space import DiskFull
from sft_app.records.manifest import damage_of, write_manifest
from sft_app.training.metrics import token_counts
from sft_app.training.saving import checkpointing_trainer
from sft_app.training.sft_trainer import SFTTrainer
from tests.training.training_steps import packed_rows, prepared, trainer_of


@pytest.fixture
def trainer(random_model, tmp_path, monkeypatch) -> SFTTrainer:
    monkeypatch.setattr(token_counts, "measure_matmul_rate", lambda device, dtype: 1e9)
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
