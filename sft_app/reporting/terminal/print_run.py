"""One run in a few lines."""

import time

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sft_app.reporting.page import format_values
from sft_app.reporting.run import summary
from sft_app.reporting.run.read_run import RunFolder, last_written
from sft_app.reporting.run.what_changed import what_changed
from sft_app.reporting.terminal.plain_text import STATUS_COLOURS, plain


def print_run(run: RunFolder, console: Console) -> None:
    """Print how the run stands, its key numbers, and what could not be read."""
    label = summary.STATUS_LABELS[run.status]
    status = Text(label, style=STATUS_COLOURS.get(run.status, "default"))
    console.print(Text.assemble(status, "  ", plain(summary.sentence(run))))
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for item in summary.key_numbers(run):
        table.add_row(plain(item.label), plain(f"{item.value} {item.detail}"))
    console.print(table)
    if changed := what_changed(run):
        console.print(plain(changed))
    if run.status == "running":
        console.print(plain(progress(run)), style=STATUS_COLOURS["running"])
    for problem in run.problems:
        console.print(plain(problem), style="dim")


def progress(run: RunFolder) -> str:
    """Say where a running run is, and how long it has been silent."""
    silence = format_values.duration(max(0.0, time.time() - last_written(run.directory)))
    step = f"step {run.metrics[-1].step:,}" if run.metrics else "no step yet"
    return f"{step}, last written {silence} ago"
