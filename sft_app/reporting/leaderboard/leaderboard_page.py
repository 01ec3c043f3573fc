"""The leaderboard's files: leaderboard.html for people, leaderboard.json for programs."""

import contextlib
import dataclasses
import json
import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft_app.common.errors import ConfigError
from sft_app.common.processes import available_cores
from sft_app.records.run_files import write_atomically
from sft_app.reporting.leaderboard.board_figures import board_figures
from sft_app.reporting.leaderboard.board_texts import board_table, pair_sentences
from sft_app.reporting.leaderboard.leaderboard_table import (
    LengthBoard,
    build_boards,
    recoveries,
)
from sft_app.reporting.leaderboard.measured_points import (
    Lost,
    Trajectory,
    lost_cells,
    trajectories,
)
from sft_app.reporting.leaderboard.published_claims import Claim, claims
from sft_app.reporting.leaderboard.recovery import CLOSE
from sft_app.reporting.leaderboard.significance import TEST
from sft_app.reporting.page.html_templates import render
from sft_app.reporting.sweep.cells import CellRecord, collect_sweep
from sft_app.reporting.sweep.next_commands import leaderboard_command, sweep_command
from sft_app.reporting.sweep.sweep_report import status_sentence, what_was_compared

PAGE, DATA = "leaderboard.html", "leaderboard.json"


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    """Everything that page and JSON say."""

    what: str
    status: str
    command: str | None
    """What started the sweep; None: it is not recorded."""
    machine: dict[str, str]
    boards: list[LengthBoard]
    claims: list[Claim]
    lost: list[Lost]
    measured: list[Trajectory]


def write_leaderboard(sweep_dir: Path) -> list[Path]:
    """Write the page and its JSON beside the sweep's own; return their paths.

    Raises ConfigError where no cell of the sweep was evaluated.
    """
    board = leaderboard(sweep_dir)
    data, page = sweep_dir / DATA, sweep_dir / PAGE
    text = json.dumps(_without_nan(dataclasses.asdict(board)), indent=1, allow_nan=False)
    write_atomically(data, text + "\n")
    write_atomically(page, leaderboard_page(board, leaderboard_command(sweep_dir)))
    return [data, page]


def leaderboard(sweep_dir: Path) -> Leaderboard:
    """Compute the leaderboard of a sweep from its files."""
    cells = collect_sweep(sweep_dir)
    measured = trajectories(cells)
    if not any(t.points for t in measured):
        raise ConfigError(
            f"{sweep_dir} has no cell that completed with an evaluation: there is nothing to rank."
        )
    boards = build_boards(measured)
    return Leaderboard(
        what=what_was_compared(cells),
        status=status_sentence(cells),
        command=sweep_command(sweep_dir, cells),
        machine=_machine(cells),
        boards=boards,
        claims=claims(measured, recoveries(boards)),
        lost=lost_cells(cells),
        measured=measured,
    )


def leaderboard_page(board: Leaderboard, report_command: str) -> str:
    """Return the page as HTML; `report_command` makes it again."""
    return render(
        "leaderboard.html",
        script="sort_table.js",
        title=f"Leaderboard: {board.what}",
        board=board,
        report_command=report_command,
        tables_of_lengths=[
            (b.context_length, board_table(b), pair_sentences(b)) for b in board.boards
        ],
        panels=board_figures(board.measured),
        close=f"{CLOSE:.0%}",
        test=TEST,
    )


def _without_nan(value: Any) -> Any:
    """Say null for what is not a finite number: JSON has no word for it (RFC 8259, section 6)."""
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _machine(cells: Sequence[CellRecord]) -> dict[str, str]:
    """Say what ran the cells, as they recorded it, and which machine the page was made on."""
    results = [cell.result for cell in cells if cell.result and cell.result.versions]
    devices = sorted({result.device for result in results if result.device})
    found: dict[str, Any] = {"device": ", ".join(devices)}
    found |= results[0].versions if results else {}
    revisions = sorted({result.git_revision for result in results if result.git_revision})
    found["revision"] = ", ".join(revisions)
    found["system"] = f"{platform.system()} {platform.machine()}, {_processor()}"
    return {key: str(value) for key, value in found.items() if value}


def _processor() -> str:
    """Name the processor and its cores, without anything that names one machine."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return f"{model}, {available_cores()} cores"
