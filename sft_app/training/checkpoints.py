"""Checkpoints that are complete or absent, and where a resumed run starts."""

import logging
import shutil
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from sft_app.records.run_files import CHECKPOINTS

log = logging.getLogger(__name__)

STAGING = ".partial"
"""Folder below checkpoints/ in which a checkpoint is written before it gets its name."""
SHARDS = "shards"
"""Folder of a checkpoint with each rank's part of weights and optimizer, under FSDP."""


def publish(staged: Path, checkpoints: Path) -> Path:
    """Give a completely written checkpoint its final name, in one step."""
    final = checkpoints / staged.name
    if final.exists():  # the same step again, after a resume
        remove(final)
    staged.replace(final)
    return final


def rotate(checkpoints: Path, keep: int | None) -> None:
    """Remove all but the newest `keep` checkpoints; null keeps all."""
    if keep is not None:
        for old in numbered(checkpoints)[:-keep]:
            remove(old)


def remove(checkpoint: Path) -> None:
    """Delete a checkpoint without ever leaving half of it under its name."""
    doomed = checkpoint.parent / STAGING / f"removed-{checkpoint.name}"
    doomed.parent.mkdir(exist_ok=True)
    checkpoint.replace(doomed)
    shutil.rmtree(doomed)


def numbered(checkpoints: Path) -> list[Path]:
    """List the checkpoint-N folders, by step."""
    found = [p for p in checkpoints.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if _step(p) is not None]
    return sorted(found, key=lambda path: _step(path) or 0)


def find_resume_point(setting: str | None, run_dir: Path) -> Path | None:
    """Return the checkpoint that `trainer.resume_from_checkpoint` means, or None to start afresh.

    A damaged newest checkpoint is passed over for the one before it, and the log says so. Raises
    ValueError when a checkpoint was named and none can be read.
    """
    if setting is None:
        return None
    place = run_dir if setting == "auto" else Path(setting).expanduser()
    candidates = [place] if _step(place) is not None else numbered(place / CHECKPOINTS)
    if not candidates and setting != "auto":
        candidates = numbered(place)  # the checkpoints/ folder itself
    for candidate in reversed(candidates):
        damage = find_damage(candidate)
        if damage is None:
            return candidate
        log.warning("Checkpoint %s cannot be used (%s); trying the one before.", candidate, damage)
    if setting == "auto":
        return None
    raise ValueError(
        f"trainer.resume_from_checkpoint={setting}: there is no complete checkpoint there. Name a "
        "run's directory, one of its checkpoints/checkpoint-N, or auto."
    )


def find_damage(checkpoint: Path) -> str | None:
    """Say what makes a checkpoint unusable, or None: its state must be there, its weights whole."""
    for needed in ("trainer_state.json", "scheduler.pt"):
        if not (checkpoint / needed).is_file():
            return f"{needed} is missing"
    weights = sorted(checkpoint.glob("*.safetensors"))
    if not weights and not (checkpoint / SHARDS / ".metadata").is_file():
        return "its weights are missing"
    for file in weights:
        try:
            with safe_open(file, framework="pt"):
                pass  # the header states every tensor's extent, and is checked against the size
        except (SafetensorError, OSError) as error:
            return f"{file.name}: {error}"
    return None


def _step(path: Path) -> int | None:
    number = path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
    return int(number) if number.isdigit() and number != path.name else None
