"""Commands that go on from a sweep, to be pasted as they are."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sft_app.common.secrets import shown_override
from sft_app.records.run_files import MODEL
from sft_app.reporting.run.read_run import load_yaml
from sft_app.reporting.sweep.cells import CellRecord
from sft_app.reporting.sweep.rank_settings import HYDRA_SWEEP, RankedSettings

ADDED_BY_THE_SWEEP = ("sweep.lengths", "sweep.tokens_per_step", "sweep.heldout_length")
"""Settings that a sweep writes into its own record, and works out again when it goes on."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """Holds what a command is for, and the command."""

    purpose: str
    line: str


def next_commands(
    sweep_dir: Path, cells: list[CellRecord], ranked: RankedSettings | None
) -> list[Command]:
    """Return what one would do next: finish, train more seeds, use the best model."""
    asked = _asked_for(sweep_dir)
    commands = []
    if asked is not None:
        ended = all(cell.is_completed for cell in cells)
        if not ended:
            commands.append(Command(purpose="go on with what is not completed", line=_line(asked)))
        seeds = sorted({cell.seed for cell in cells if cell.seed is not None})
        if ended and seeds:
            more = [*seeds, *(seeds[-1] + number for number in (1, 2))]
            rest = [override for override in asked if not override.startswith("seed=")]
            with_seeds = [*rest, f"seed={','.join(map(str, more))}"]
            commands.append(
                Command(purpose="train two more seeds of every cell", line=_line(with_seeds))
            )
    if ranked is not None and ranked.best.completed:
        model = _from_here(ranked.best.completed[0].run.directory) / MODEL
        line = f"sft-train {shlex.quote(f'model.name_or_path={model}')} data.train=FILE"
        commands.append(Command(purpose="go on from the best model", line=line))
    return commands


def _asked_for(sweep_dir: Path) -> list[str] | None:
    """Return the overrides that started the sweep, and where it lives; None when not recorded."""
    try:
        recorded = load_yaml(sweep_dir / HYDRA_SWEEP)
        overrides = [
            shown_override(str(override)) for override in recorded["hydra"]["overrides"]["task"]
        ]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return None
    asked = [o for o in overrides if o.partition("=")[0] not in ADDED_BY_THE_SWEEP]
    if not _is_named(recorded, sweep_dir):
        asked.append(f"hydra.sweep.dir={_from_here(sweep_dir)}")
    return asked


def _is_named(recorded: dict[str, Any], sweep_dir: Path) -> bool:
    sweep = recorded.get("sweep")
    return isinstance(sweep, dict) and sweep.get("name") == sweep_dir.absolute().name


def _line(overrides: list[str]) -> str:
    return shlex.join(["sft-train", "--multirun", *overrides])


def _from_here(path: Path) -> Path:
    path, here = path.absolute(), Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
