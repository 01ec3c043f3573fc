"""The same in brief, for a terminal. File contents are printed as text, never as markup."""

import time

from rich.console import Console, JustifyMethod
from rich.table import Table as RichTable
from rich.text import Text

from sft_app.reporting.page import format_values
from sft_app.reporting.run import summary
from sft_app.reporting.run.read_run import RunRecord, last_written
from sft_app.reporting.sweep.best_cell import Choice, choose_best
from sft_app.reporting.sweep.cells import CellRecord
from sft_app.reporting.sweep.failed_cells import collect_failures
from sft_app.reporting.sweep.seed_groups import group_seeds
from sft_app.reporting.sweep.settings_diff import differences
from sft_app.reporting.sweep.sweep_report import answer, status_sentence
from sft_app.reporting.sweep.sweep_table import Table, build_table

MOST_ROWS = 60
MOST_ROWS_OF_MANY = 20
MOST_LENGTHS = 3
MOST_RUNNING = 16
LEFT_OUT = ("GPU-hours", "CPU process-hours")
SHORT_GROUPS = {"perplexity at": "ppl", "passkey at": "passkey"}
COLOURS = {
    "completed": "green",
    "failed": "red",
    "out_of_memory": "red",
    "unreadable": "red",
    "running": "yellow",
    "interrupted": "yellow",
    "skipped": "yellow",
}


def print_run(run: RunRecord, console: Console) -> None:
    label = summary.STATUS_LABELS[run.status]
    status = Text(label, style=COLOURS.get(run.status, "default"))
    console.print(Text.assemble(status, "  ", plain(summary.sentence(run))))
    table = RichTable(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_row(plain("model"), plain(summary.model_of(run)))
    for item in summary.key_numbers(run):
        table.add_row(plain(item.label), plain(f"{item.value} {item.detail}"))
    console.print(table)
    if run.status == "running":
        console.print(plain(_progress(run)), style=COLOURS["running"])
    for problem in run.problems:
        console.print(plain(problem), style="dim")


def print_sweep(cells: list[CellRecord], console: Console) -> None:
    differing = differences(cells)
    choice = choose_best(group_seeds(cells, differing))
    shown = cells if len(cells) <= MOST_ROWS else _most_telling(cells, choice)
    best = choice.best.completed if choice else []
    console.print(_rich_table(build_table(shown, differing, best, MOST_LENGTHS)))
    if len(shown) < len(cells):
        console.print(f"... and {len(cells) - len(shown)} more cells in the report.")
    console.print(plain(status_sentence(cells)))
    for cell in [cell for cell in cells if cell.status == "running"][:MOST_RUNNING]:
        console.print(plain(f"{cell.name}: {_progress(cell.run)}"), style=COLOURS["running"])
    for failure in collect_failures(cells):
        lengths = ", ".join(f"{length:,}" for length in failure.lengths)
        head = f"{len(failure.cells)} × {summary.STATUS_LABELS[failure.status]} at {lengths or '?'}"
        error = f"{failure.type}: " if failure.type else ""
        line = plain(f"{head}: {error}{summary.first_line(failure.message)}")
        console.print(line, style=COLOURS[failure.status])
    if choice:
        found = answer(choice)
        console.print(plain(f"Best: {found.headline}. {found.measured}"), style="bold")
        if found.caution:
            console.print(plain(found.caution))


def plain(text: str) -> Text:
    """Text without control characters: a file must not be able to move the cursor."""
    return Text("".join(letter if letter.isprintable() else " " for letter in text))


def _progress(run: RunRecord) -> str:
    """A run that was killed still says `running`: how long it has been silent tells."""
    silence = format_values.duration(max(0.0, time.time() - last_written(run.directory)))
    step = f"step {run.metrics[-1].step:,}" if run.metrics else "no step yet"
    return f"{step}, last written {silence} ago"


def _most_telling(cells: list[CellRecord], choice: Choice | None) -> list[CellRecord]:
    """The best of many cells; the first ones while there is no best."""
    ranked = [cell for setting in choice.ranking for cell in setting.completed] if choice else []
    return (ranked or cells)[:MOST_ROWS_OF_MANY]


def _rich_table(table: Table) -> RichTable:
    shown = RichTable(box=None, header_style="dim", padding=(0, 2, 0, 0))
    # Where all cells agree there is nothing to compare.
    kept = [
        index
        for index, column in enumerate(table.columns)
        if column.title not in LEFT_OUT
        and (column.title == "status" or len({row.values[index].text for row in table.rows}) > 1)
    ]
    for index in kept:
        column = table.columns[index]
        title = f"{SHORT_GROUPS.get(column.group, '')} {column.title}".strip()
        justify: JustifyMethod = "right" if column.is_number else "left"
        shown.add_column(plain(title), justify=justify, no_wrap=True)
    for row in table.rows:
        texts = []
        for index in kept:
            text = plain(row.values[index].text)
            text.stylize(COLOURS.get(row.values[index].status, ""))
            texts.append(text)
        shown.add_row(*texts, style="bold" if row.is_best else "")
    return shown
