"""identity.json: what a run is made of, and what a resume, or a sweep that continues, must match.

Settings that can change the training, the size of an optimizer step, and digests of the files that
go in: data, model, tokenizer, template. One mechanism for plain runs, for the jobs of sweeps, and
for a checkpoint of another folder. Computed without torch, by the process that composes.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from sft_app.common.counted import counted
from sft_app.common.file_digest import file_digest
from sft_app.config.config_hash import can_change_the_outcome
from sft_app.config.schema.app import AppConfig
from sft_app.config.schema.from_environment import as_written
from sft_app.records.input_files import input_files
from sft_app.records.run_files import IDENTITY, write_atomically

HOW_A_STEP_IS_CUT = (
    "trainer.per_device_train_batch_size", "trainer.gradient_accumulation_steps",
    "launch.nproc_per_node", "launch.nnodes", "launch.device",
)  # fmt: skip
"""They may change as long as their product, the rows of a step, is the same."""
NO_MATTER_TO_TRAINING = (
    "trainer.logging_steps", "trainer.save_steps", "trainer.save_strategy", "trainer.on_nonfinite",
    "trainer.gradient_checkpointing", "trainer.gradient_checkpointing_kwargs",
    "trainer.eval_strategy", "trainer.eval_steps",
    "trainer.on_loss_spike", "trainer.loss_spike_threshold", "trainer.loss_spike_window",
    "trainer.max_rewinds",
)  # fmt: skip
"""Settings that say when something is written, how memory is saved, or what ends a bad run."""
MEASURED_ON = "evaluation.documents"
"""What goes into measurements alone."""
VERSIONS = ("torch", "transformers", "accelerate", "tokenizers", "peft", "sft-app")


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What decides the outcome of a training run."""

    settings: dict[str, Any]
    """Dotted key -> value, without how a step is cut, and what is only measured."""
    measured: dict[str, Any]
    """What is evaluated: no matter for going on, but for a run that is complete."""
    rows_per_step: int
    """Rows, or examples, of one optimizer step, over all ranks."""
    world_size: int
    digests: dict[str, str]
    """data.train, data.eval, model, tokenizer, chat_template, evaluation.documents -> SHA-256 over
    its files."""
    versions: dict[str, str]
    rows_at_once: int | None = None
    """Rows of one pass of all ranks, where trailing ones that do not fill it are left out of each
    epoch; null: none are, or the record is older than this."""

    def write(self, run_dir: Path) -> None:
        """Write identity.json in `run_dir`, in one step."""
        text = json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True)
        write_atomically(run_dir / IDENTITY, text + "\n")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How a run that is there differs from the one that is asked for."""

    differences: tuple[str, ...]
    """What would make it another training: one phrase each, naming the key and both values."""
    notes: tuple[str, ...]
    """What changes its numbers in the last digits at most."""


def identity_of(config: AppConfig, world_size: int) -> Identity:
    """Find out what a run with these settings on so many ranks is made of.

    Reads every input file once; their digests are remembered as long as the files do not change.
    """
    plain = json.loads(json.dumps(_flat(config), default=_plain))
    counted = {key: value for key, value in plain.items() if can_change_the_outcome(key)}
    left_out = {*HOW_A_STEP_IS_CUT, *NO_MATTER_TO_TRAINING}
    measured = {key: value for key, value in counted.items() if key.startswith("evaluation.")}
    memo = _cache() / "digests"
    return Identity(
        settings={k: v for k, v in counted.items() if k not in left_out and k not in measured},
        measured=measured,
        rows_per_step=rows_per_step(config, world_size),
        world_size=world_size,
        digests={key: _digest(files, memo) for key, files in input_files(config).items()},
        versions=_versions(),
        rows_at_once=_rows_at_once(config, world_size),
    )


def rows_per_step(config: AppConfig, world_size: int) -> int:
    """Return the rows, or examples, of one optimizer step, over all ranks."""
    trainer = config.trainer
    groups = world_size // (trainer.context_parallel_size * trainer.tensor_parallel_size)
    batch = trainer.per_device_train_batch_size * trainer.gradient_accumulation_steps
    return batch * max(1, groups)


def _rows_at_once(config: AppConfig, world_size: int) -> int | None:
    trainer = config.trainer
    if not trainer.extra.get("dataloader_drop_last"):
        return None
    return rows_per_step(config, world_size) // trainer.gradient_accumulation_steps


def read_identity(folder: Path) -> Identity | None:
    """Read identity.json of a run or a checkpoint; None where there is none that can be read."""
    try:
        raw = json.loads((folder / IDENTITY).read_text(encoding="utf-8"))
        read = Identity(**raw)
    except (OSError, ValueError, TypeError):
        return None
    tables = (read.settings, read.measured, read.digests, read.versions)
    return read if all(isinstance(table, dict) for table in tables) else None


def compare(before: Identity, now: Identity, *, completed: bool = False) -> Comparison:
    """Say how `now` differs from what a run was begun with, or `completed` with."""
    differences = _changed(before.settings, now.settings)
    if completed:
        differences += _changed(before.measured, now.measured)
    if before.rows_per_step != now.rows_per_step:
        differences.append(
            f"an optimizer step had {counted(before.rows_per_step, 'row')} (per device x "
            f"accumulated x processes) and has {now.rows_per_step}"
        )
    was, is_now = before.rows_at_once, now.rows_at_once
    if was is not None and is_now is not None and was != is_now:
        differences.append(
            "trainer.extra.dataloader_drop_last left out of each epoch what does not fill "
            f"{counted(was, 'row')} (per device x processes), and now what does not fill {is_now}"
        )
    for key in sorted({*before.digests, *now.digests}):
        if key == MEASURED_ON and not (completed and key in before.digests and key in now.digests):
            continue  # it changes no training, and an older identity does not know it
        if before.digests.get(key) != now.digests.get(key):
            differences.append(f"the content of {key} has changed")
    notes = []
    if before.world_size != now.world_size:
        notes.append(
            f"{now.world_size} processes instead of {before.world_size}: the order of the data "
            "stays, sums are rounded differently, and dropout draws other numbers"
        )
    for package in sorted({*before.versions, *now.versions}):
        old, new = before.versions.get(package), now.versions.get(package)
        if old != new:
            notes.append(f"{package} {new} instead of {old}")
    return Comparison(differences=tuple(differences), notes=tuple(notes))


def equal_but_for_rope(one: Identity, other: Identity) -> bool:
    """Tell whether two runs are asked for the same in everything but the extension of positions."""
    return not compare(_without_rope(one), _without_rope(other), completed=True).differences


def _without_rope(identity: Identity) -> Identity:
    settings = {key: v for key, v in identity.settings.items() if not key.startswith("rope.")}
    return dataclasses.replace(identity, settings=settings)


def _changed(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    defaults = _defaults()
    changed = []
    for key in sorted({*before, *now}):
        was, is_now = (values.get(key, defaults.get(key)) for values in (before, now))
        if was != is_now:
            changed.append(f"{key} was {_brief(was)} and is {_brief(is_now)}")
    return changed


def _flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Return every setting by its dotted key."""
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            flat |= _flat(value, f"{prefix}{field.name}.")
        else:
            flat[f"{prefix}{field.name}"] = as_written(value)
    return flat


def _defaults() -> dict[str, Any]:
    """Return the schema's own values: an older identity lacks the keys that came after it."""
    defaults: dict[str, Any] = {}
    for group in dataclasses.fields(AppConfig):
        if dataclasses.is_dataclass(group.type):
            for field in dataclasses.fields(group.type):
                made = field.default_factory
                value = field.default if made is dataclasses.MISSING else made()
                defaults[f"{group.name}.{field.name}"] = json.loads(
                    json.dumps(value, default=_plain)
                )
    return defaults


def _digest(files: dict[str, Path], memo: Path) -> str:
    """Return one SHA-256 over names and contents."""
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        digest.update(f"{name}\0{file_digest(path, memo)}\n".encode())
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    found = {}
    for package in VERSIONS:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _cache() -> Path:
    return Path(os.environ.get("SFT_CACHE_DIR") or "~/.cache/sft_app").expanduser()


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _plain(value: object) -> object:
    return value.value if isinstance(value, Enum) else str(value)
