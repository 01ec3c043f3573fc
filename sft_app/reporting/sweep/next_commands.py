"""Commands that go on from a sweep, to be pasted as they are."""

from dataclasses import dataclass
from pathlib import Path

from sft_app.config import job_folders
from sft_app.records.paste_lines import (
    override_value,
    recorded_overrides,
    shell_line,
    train_further,
)
from sft_app.records.run_files import MODEL
from sft_app.reporting.run.read_run import load_yaml
from sft_app.reporting.sweep.cells import CellRecord
from sft_app.reporting.sweep.rank_settings import HYDRA_SWEEP, RankedSettings


@dataclass(frozen=True, kw_only=True)
class Command:
    """Holds what a command is for, and the command."""

    purpose: str
    line: str


def next_commands(
    sweep_dir: Path, cells: list[CellRecord], ranked: RankedSettings | None
) -> list[Command]:
    """Return what one would do next: finish, train more seeds, use the best model."""
    asked = _asked_for(sweep_dir, cells)
    commands = []
    if asked is not None:
        ended = all(cell.status in ("completed", "dropped") for cell in cells)
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
        best = ranked.best.completed[0].run
        folder = _from_here(best.directory)
        talk = shell_line("sft-chat", str(folder))
        commands.append(Command(purpose="talk to the best model", line=talk))
        if (further := train_further(folder / MODEL, best.config)) is not None:
            commands.append(Command(purpose="go on from the best model", line=further))
    return commands


def sweep_command(sweep_dir: Path, cells: list[CellRecord]) -> str | None:
    """Return the command that started the sweep, and continues it; None when not recorded."""
    asked = _asked_for(sweep_dir, cells)
    return None if asked is None else _line(asked)


def leaderboard_command(sweep_dir: Path) -> str:
    """Return the command that builds the leaderboard, from where `sweep_command` is given."""
    is_recorded = recorded_overrides(sweep_dir / HYDRA_SWEEP) is not None
    if is_recorded and _is_named(sweep_dir):
        folder = job_folders.sweep_dir(sweep_dir.absolute().name, "")
    else:
        folder = str(_from_here(sweep_dir))
    return shell_line("sft-report", "--leaderboard", folder)


def _asked_for(sweep_dir: Path, cells: list[CellRecord]) -> list[str] | None:
    """Return the overrides that started the sweep, and where it lives; None when not recorded."""
    overrides = recorded_overrides(sweep_dir / HYDRA_SWEEP)
    if overrides is None:
        return None
    asked = _typed(overrides, cells)
    if not _is_named(sweep_dir):
        asked.append(f"hydra.sweep.dir={override_value(str(_from_here(sweep_dir)))}")
    return asked


def _typed(overrides: list[str], cells: list[CellRecord]) -> list[str]:
    """Return the overrides without those that the sweep added: one after the other, at the end."""
    worked_out = _worked_out(cells)
    typed: list[str] = []
    was_worked_out = False
    for override in overrides:
        follows = was_worked_out and override.startswith("sweep.tokens_per_step=")
        was_worked_out = follows or override in worked_out
        typed += [] if was_worked_out else [override]
    return typed


def _worked_out(cells: list[CellRecord]) -> list[str]:
    """Return the overrides that a sweep of these cells adds to its own record by itself."""
    lengths = sorted({cell.context_length for cell in cells if cell.context_length is not None})
    if not lengths:
        return []
    listed = ",".join(map(str, lengths))
    return [f"sweep.lengths=[{listed}]", f"sweep.heldout_length={lengths[0]}"]


def _is_named(sweep_dir: Path) -> bool:
    """Tell whether sweep.name leads to the folder; recorded_overrides has read the file."""
    recorded = load_yaml(sweep_dir / HYDRA_SWEEP)
    sweep = recorded.get("sweep")
    return isinstance(sweep, dict) and sweep.get("name") == sweep_dir.absolute().name


def _line(overrides: list[str]) -> str:
    return shell_line("sft-train", "--multirun", *overrides)


def _from_here(path: Path) -> Path:
    path, here = path.absolute(), Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
