"""Checkpoints that are complete or absent, and where a resumed run starts."""

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from sft_app.common import ranks
from sft_app.common.errors import ConfigError
from sft_app.records import manifest
from sft_app.records.run_files import CHECKPOINTS

log = logging.getLogger(__name__)

STAGING = ".partial"
"""Folder below checkpoints/ in which a checkpoint is written before it gets its name."""
PASSED_OVER = ".passed_over"
"""Folder below checkpoints/ with those that training did not go on from."""
SHARDS = "shards"
"""Folder of a checkpoint with each rank's part of weights and optimizer, under FSDP."""


@dataclass(frozen=True)
class ResumePoint:
    """The checkpoint that training goes on from."""

    checkpoint: Path | None
    """None: training starts at its first step."""
    rejected: tuple[str, ...] = ()
    """Newer ones that cannot be used, and why."""


def publish(staged: Path, checkpoints: Path) -> Path:
    """Give a completely written checkpoint its final name, in one step."""
    final = checkpoints / staged.name
    manifest.publish(staged, final)
    return final


def rotate(checkpoints: Path, keep: int | None, best: int | None = None) -> None:
    """Remove all but the newest `keep` checkpoints, and that of step `best`; null keeps all."""
    if keep is not None:
        assert keep > 0, "validated"
        for old in numbered(checkpoints)[:-keep]:
            if step_of(old) != best:
                remove(old)


def remove(checkpoint: Path) -> None:
    """Delete a checkpoint without ever leaving half of it under its name."""
    doomed = checkpoint.parent / STAGING / f"removed-{checkpoint.name}"
    doomed.parent.mkdir(exist_ok=True)
    checkpoint.replace(doomed)
    shutil.rmtree(doomed)


def numbered(checkpoints: Path) -> list[Path]:
    """List the checkpoint-N folders, by step."""
    found = [p for p in checkpoints.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if step_of(p) is not None]
    return sorted(found, key=lambda path: step_of(path) or 0)


def set_newer_aside(run_dir: Path, resumed_from: Path | None) -> list[Path]:
    """Move this run's checkpoints beyond the one that training goes on from out of the way.

    They are damaged, or were passed over on purpose; left there, their numbers would make rotation
    remove what training writes from now on. Return where they are now.
    """
    checkpoints = run_dir / CHECKPOINTS
    last = (step_of(resumed_from) or 0) if resumed_from is not None else -1
    moved = []
    for newer in numbered(checkpoints):
        if (step_of(newer) or 0) > last:
            place = checkpoints / PASSED_OVER / newer.name
            shutil.rmtree(place, ignore_errors=True)
            place.parent.mkdir(exist_ok=True)
            moved.append(newer.replace(place))
            log.warning("%s is kept in %s: training goes on from before it.", newer.name, place)
    return moved


def agree_on_resume_point(setting: str | None, run_dir: Path) -> ResumePoint:
    """Let rank 0 find the resume point, and tell the others; a collective.

    Raises ConfigError on every rank when a checkpoint was named and none can be used.
    """
    found: list[ResumePoint | ConfigError | None] = [None]
    if ranks.is_main():
        try:
            found = [find_resume_point(setting, run_dir)]
        except ConfigError as error:
            found = [error]
    if ranks.is_distributed():
        dist.broadcast_object_list(found, src=0)
    if isinstance(found[0], ConfigError):
        raise found[0]
    assert found[0] is not None
    return found[0]


def find_resume_point(setting: str | None, run_dir: Path) -> ResumePoint:
    """Return the checkpoint that `trainer.resume_from_checkpoint` means.

    A damaged one is passed over for the one before it, and the log says which and why. Raises
    ConfigError when a checkpoint was named and none can be used.
    """
    if setting in (None, "never"):
        return ResumePoint(None)
    place = run_dir if setting == "auto" else Path(str(setting)).expanduser()
    candidates = _candidates(place)
    rejected: list[str] = []
    for candidate in reversed(candidates):
        damage = find_damage(candidate)
        if damage is None:
            return ResumePoint(candidate, tuple(rejected))
        rejected.append(f"{candidate.name}: {damage}")
        log.warning("Checkpoint %s cannot be used (%s); trying the one before.", candidate, damage)
    if setting == "auto":
        if rejected:
            log.warning("No checkpoint of this run can be used: training starts at its first step.")
        return ResumePoint(None, tuple(rejected))
    reasons = f" ({'; '.join(rejected)})" if rejected else ""
    raise ConfigError(
        f"trainer.resume_from_checkpoint={setting}: there is no whole checkpoint there{reasons}. "
        "Name a run's directory, one of its checkpoints/checkpoint-N, or auto."
    )


def newest_whole(checkpoints: Path, *, before: int) -> Path | None:
    """Return the newest checkpoint of a step below `before` that is whole; None: there is none."""
    for candidate in reversed(numbered(checkpoints)):
        if (step_of(candidate) or 0) < before:
            damage = find_damage(candidate)
            if damage is None:
                return candidate
            log.warning("Checkpoint %s is passed over: %s.", candidate, damage)
    return None


def _candidates(place: Path) -> list[Path]:
    """List the checkpoints that a place means; those before a named one are its fallback.

    A link and the current folder (`latest`, `.`) are what they stand for.
    """
    if step_of(place) is None and step_of(place.resolve()) is not None:
        place = place.resolve()
    step = step_of(place)
    if step is not None:
        before = [p for p in numbered(place.parent) if (step_of(p) or 0) < step]
        return [*before, place] if place.is_dir() else before
    return numbered(place / CHECKPOINTS) or numbered(place)


def find_damage(checkpoint: Path) -> str | None:
    """Say what makes a checkpoint unusable, or None.

    Every file that its manifest lists must be there with the content that was written. Checkpoints
    of versions without manifests must have all that training needs, their weights whole.
    """
    try:
        damage = manifest.damage_of(checkpoint)
    except FileNotFoundError:
        damage = None
        log.warning("%s has no manifest: only what it must hold is checked.", checkpoint)
    except OSError as error:
        damage = str(error)
    return damage or _missing_part(checkpoint)


def _missing_part(checkpoint: Path) -> str | None:
    for needed in ("trainer_state.json", "scheduler.pt"):
        if not (checkpoint / needed).is_file():
            return f"{needed} is missing"
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        return f"trainer_state.json: {error}"
    if not list(checkpoint.glob("rng_state*.pth")):
        return "the state of the random number generators is missing"
    if (checkpoint / SHARDS / ".metadata").is_file():
        return None
    if not (checkpoint / "optimizer.pt").is_file():
        return "optimizer.pt is missing"
    weights = sorted(checkpoint.glob("*.safetensors"))
    if not weights:
        return "its weights are missing"
    for file in weights:
        try:
            with safe_open(file, framework="pt"):
                pass  # the header states every tensor's extent, and is checked against the size
        except (SafetensorError, OSError) as error:
            return f"{file.name}: {error}"
    return None


def checkpoint_of(checkpoints: Path, step: int) -> Path:
    """Return where the checkpoint of a step is, or would be."""
    return checkpoints / f"{PREFIX_CHECKPOINT_DIR}-{step}"


def step_of(path: Path) -> int | None:
    """Return the step that a checkpoint's name states; None where it is no checkpoint's."""
    number = path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
    return int(number) if number.isdigit() and number != path.name else None
