"""Checkpoints are complete or absent, and a resumed run starts at the newest that is whole."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sft_app.common.errors import ConfigError
from sft_app.records.manifest import write_manifest
from sft_app.training.saving.checkpoints import (
    STAGING,
    find_resume_point,
    numbered,
    publish,
    rotate,
    set_newer_aside,
)

FILES = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "model.safetensors")


def make_checkpoint(run_dir: Path, step: int, *, manifest: bool = True) -> Path:
    checkpoint = run_dir / "checkpoints" / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    save_file({"weight": torch.ones(64)}, checkpoint / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"step": step}, checkpoint / name)
    (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    if manifest:
        write_manifest(checkpoint, step=step)
    return checkpoint


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))


def test_a_run_that_starts_anew_resumes_nothing(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, 5)
    assert find_resume_point("never", tmp_path).checkpoint is None
    assert find_resume_point(None, tmp_path).checkpoint is None


def test_a_run_directory_means_its_newest_checkpoint(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, 5)
    newest = make_checkpoint(tmp_path, 10)
    (tmp_path / "checkpoints" / STAGING / "checkpoint-15").mkdir(parents=True)
    for setting in (str(tmp_path), str(tmp_path / "checkpoints"), str(newest), "auto"):
        assert find_resume_point(setting, tmp_path).checkpoint == newest


def test_a_link_and_the_current_folder_are_the_checkpoint_that_they_stand_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = make_checkpoint(tmp_path, 5)
    make_checkpoint(tmp_path, 10)
    (tmp_path / "latest").symlink_to(checkpoint)
    assert find_resume_point(str(tmp_path / "latest"), tmp_path).checkpoint == checkpoint.resolve()
    monkeypatch.chdir(checkpoint)
    assert find_resume_point(".", tmp_path).checkpoint == checkpoint.resolve()


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", [Path.unlink, truncate, flip_a_bit])
def test_whatever_is_damaged_is_passed_over_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None], file: str
) -> None:
    whole = make_checkpoint(tmp_path, 5)
    newest = make_checkpoint(tmp_path, 10)
    damage(newest / file)
    found = find_resume_point("auto", tmp_path)
    assert found.checkpoint == whole
    assert len(found.rejected) == 1 and file in found.rejected[0]
    assert "checkpoint-10 cannot be used" in caplog.text


@pytest.mark.parametrize("text", ["", "{", "[]", '{"files": 3}'])
def test_a_manifest_that_is_damaged_is_damage(tmp_path: Path, text: str) -> None:
    whole = make_checkpoint(tmp_path, 5)
    (make_checkpoint(tmp_path, 10) / "manifest.json").write_text(text)
    assert find_resume_point("auto", tmp_path).checkpoint == whole


@pytest.mark.parametrize("file", FILES)
def test_without_a_manifest_each_file_must_be_there(tmp_path: Path, file: str) -> None:
    """As of checkpoints that older versions wrote."""
    checkpoint = make_checkpoint(tmp_path, 5, manifest=False)
    assert find_resume_point("auto", tmp_path).checkpoint == checkpoint
    (checkpoint / file).unlink()
    assert find_resume_point("auto", tmp_path).checkpoint is None


def test_a_named_checkpoint_that_is_damaged_falls_back_to_the_one_before(tmp_path: Path) -> None:
    whole = make_checkpoint(tmp_path, 5)
    named = make_checkpoint(tmp_path, 10)
    make_checkpoint(tmp_path, 15)
    truncate(named / "optimizer.pt")
    assert find_resume_point(str(named), tmp_path).checkpoint == whole


def test_a_named_place_without_a_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no whole checkpoint"):
        find_resume_point(str(tmp_path), tmp_path)


def test_auto_starts_afresh_when_there_is_none(tmp_path: Path) -> None:
    assert find_resume_point("auto", tmp_path).checkpoint is None


def test_what_training_does_not_go_on_from_does_not_push_out_what_it_writes(tmp_path: Path) -> None:
    """By its higher number, with save_total_limit=1."""
    make_checkpoint(tmp_path, 5)
    truncate(make_checkpoint(tmp_path, 10) / "optimizer.pt")
    found = find_resume_point("auto", tmp_path)
    (moved,) = set_newer_aside(tmp_path, found.checkpoint)
    assert moved.is_dir() and moved.name == "checkpoint-10"
    newest = make_checkpoint(tmp_path, 6)
    rotate(tmp_path / "checkpoints", keep=1)
    assert numbered(tmp_path / "checkpoints") == [newest]
    set_newer_aside(tmp_path, None)
    assert not numbered(tmp_path / "checkpoints")


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
