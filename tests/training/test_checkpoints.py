"""Checkpoints are complete or absent, and a resumed run starts at the newest that is whole."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sft_app.training.checkpoints import STAGING, find_resume_point, numbered, publish, rotate


def make_checkpoint(run_dir: Path, step: int) -> Path:
    checkpoint = run_dir / "checkpoints" / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    save_file({"weight": torch.ones(64)}, checkpoint / "model.safetensors")
    for name in ("trainer_state.json", "scheduler.pt"):
        (checkpoint / name).write_text("{}")
    return checkpoint


def test_without_the_setting_nothing_is_resumed(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, 5)
    assert find_resume_point(None, tmp_path) is None


def test_a_run_directory_means_its_newest_checkpoint(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, 5)
    newest = make_checkpoint(tmp_path, 10)
    (tmp_path / "checkpoints" / STAGING / "checkpoint-15").mkdir(parents=True)
    for setting in (str(tmp_path), str(tmp_path / "checkpoints"), str(newest), "auto"):
        assert find_resume_point(setting, tmp_path) == newest


@pytest.mark.parametrize("damage", ["truncated", "no state", "no weights"])
def test_a_damaged_newest_is_passed_over_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    whole = make_checkpoint(tmp_path, 5)
    newest = make_checkpoint(tmp_path, 10)
    weights = newest / "model.safetensors"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-10])
    elif damage == "no weights":
        weights.unlink()
    else:
        (newest / "trainer_state.json").unlink()
    assert find_resume_point(str(tmp_path), tmp_path) == whole
    assert "checkpoint-10 cannot be used" in caplog.text


def test_a_named_place_without_a_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no complete checkpoint"):
        find_resume_point(str(tmp_path), tmp_path)


def test_auto_starts_afresh_when_there_is_none(tmp_path: Path) -> None:
    assert find_resume_point("auto", tmp_path) is None


def test_publishing_replaces_the_same_step(tmp_path: Path) -> None:
    old = make_checkpoint(tmp_path, 5)
    staged = old.parent / STAGING / "checkpoint-5"
    staged.mkdir(parents=True)
    (staged / "new").touch()
    publish(staged, old.parent)
    assert [p.name for p in old.iterdir()] == ["new"]


def test_rotation_keeps_the_newest_by_number(tmp_path: Path) -> None:
    for step in (5, 10, 100, 20):
        make_checkpoint(tmp_path, step)
    rotate(tmp_path / "checkpoints", keep=2)
    assert [p.name for p in numbered(tmp_path / "checkpoints")] == [
        "checkpoint-20",
        "checkpoint-100",
    ]
    rotate(tmp_path / "checkpoints", keep=None)
    assert len(numbered(tmp_path / "checkpoints")) == 2
