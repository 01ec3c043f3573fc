"""Many runs, a line each: the newest first."""

from datetime import datetime
from pathlib import Path

from rich.console import Console

from sft_app.reporting.page import format_values
from sft_app.reporting.run import summary
from sft_app.reporting.run.find_runs import Found
from sft_app.reporting.run.read_run import last_written, read_run
from sft_app.reporting.sweep.cells import collect_sweep
from sft_app.reporting.sweep.sweep_report import status_counts
from sft_app.reporting.sweep.sweep_table import Column, Row, Table, Value, number
from sft_app.reporting.terminal.fit_table import print_table
from sft_app.reporting.terminal.plain_text import plain

MOST_LISTED = 20


def print_list(found: Found, root: Path, console: Console) -> None:
    """Print what there is below `root`: when, status, context length, held-out loss, when, RoPE.

    Where it is comes first, and stays on a narrow screen; RoPE is the first to go.
    """
    table = Table(
        columns=[
            Column(title="status", is_number=False),
            Column(title="context"),
            Column(title="loss"),
            Column(title="written", is_number=False),
            Column(title="RoPE", is_number=False),
        ]
    )
    for other in found.all[:MOST_LISTED]:
        table.rows.append(_sweep(other, root) if other.is_sweep else _run(other, root))
    print_table(table, console, first="where")
    more = len(found.all) - MOST_LISTED
    if more > 0:
        console.print(plain(f"... and {more} older ones."))


def _run(found: Found, root: Path) -> Row:
    run = read_run(found.directory)
    heldout = summary.heldout(run.result, "after") if run.result else None
    length = summary.context_length_of(run)
    return Row(
        name=_name(found.directory, root),
        link="",
        values=[
            Value(text=summary.STATUS_LABELS[run.status], status=run.status, is_number=False),
            number(length, format_values.count),
            number(summary.loss_of(heldout), format_values.loss),
            Value(text=_when(last_written(found.directory)), is_number=False),
            Value(text=summary.rope_of(run), is_number=False),
        ],
    )


def _sweep(found: Found, root: Path) -> Row:
    cells = collect_sweep(found.directory)
    lengths = sorted({cell.context_length for cell in cells if cell.context_length})
    losses = [summary.loss_of(cell.heldout("after")) for cell in cells]
    newest = max((last_written(cell.run.directory) for cell in cells), default=0.0)
    return Row(
        name=f"{_name(found.directory, root)} (sweep)",
        link="",
        values=[
            Value(text=status_counts(cells), is_number=False),
            Value(text=", ".join(map(format_values.length, lengths))),
            number(min((loss for loss in losses if loss), default=None), format_values.loss),
            Value(text=_when(newest), is_number=False),
            Value(text=", ".join(sorted({cell.method for cell in cells if cell.method}))),
        ],
    )


def _when(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds):%m-%d %H:%M}"


def _name(directory: Path, root: Path) -> str:
    return str(directory.relative_to(root)) if directory.is_relative_to(root) else str(directory)
