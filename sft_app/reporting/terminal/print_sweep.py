"""A sweep as a table, its failures, and the best setting."""

from rich.console import Console, JustifyMethod
from rich.table import Table as RichTable

from sft_app.reporting.run import summary
from sft_app.reporting.sweep.cells import CellRecord
from sft_app.reporting.sweep.failed_cells import collect_failures
from sft_app.reporting.sweep.rank_settings import RankedSettings, rank_settings
from sft_app.reporting.sweep.seed_groups import group_seeds
from sft_app.reporting.sweep.settings_diff import differences
from sft_app.reporting.sweep.sweep_report import answer, status_sentence
from sft_app.reporting.sweep.sweep_table import Table, build_table
from sft_app.reporting.terminal.plain_text import STATUS_COLOURS, plain
from sft_app.reporting.terminal.print_run import progress

MOST_ROWS = 60
MOST_ROWS_OF_MANY = 20
MOST_LENGTHS = 3
MOST_RUNNING = 16
LEFT_OUT = ("GPU-hours", "CPU process-hours")
SHORT_GROUPS = {"perplexity at": "ppl", "passkey at": "passkey"}


def print_sweep(cells: list[CellRecord], console: Console) -> None:
    """Print the table of cells, how they ended, and which setting is best."""
    differing = differences(cells)
    ranked = rank_settings(group_seeds(cells, differing))
    shown = cells if len(cells) <= MOST_ROWS else _most_telling(cells, ranked)
    best = ranked.best.completed if ranked else []
    console.print(_rich_table(build_table(shown, differing, best, MOST_LENGTHS)))
    if len(shown) < len(cells):
        console.print(f"... and {len(cells) - len(shown)} more cells in the report.")
    console.print(plain(status_sentence(cells)))
    for cell in [cell for cell in cells if cell.status == "running"][:MOST_RUNNING]:
        console.print(plain(f"{cell.name}: {progress(cell.run)}"), style=STATUS_COLOURS["running"])
    for failure in collect_failures(cells):
        lengths = ", ".join(f"{length:,}" for length in failure.lengths)
        head = f"{len(failure.cells)} × {summary.STATUS_LABELS[failure.status]} at {lengths or '?'}"
        error = f"{failure.type}: " if failure.type else ""
        line = plain(f"{head}: {error}{summary.first_line(failure.message)}")
        console.print(line, style=STATUS_COLOURS[failure.status])
    if ranked:
        found = answer(ranked)
        console.print(plain(f"Best: {found.headline}. {found.measured}"), style="bold")
        if found.caution:
            console.print(plain(found.caution))


def _most_telling(cells: list[CellRecord], ranked: RankedSettings | None) -> list[CellRecord]:
    """The best of many cells; the first ones while there is no best."""
    telling = [cell for setting in ranked.settings for cell in setting.completed] if ranked else []
    return (telling or cells)[:MOST_ROWS_OF_MANY]


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
            text.stylize(STATUS_COLOURS.get(row.values[index].status, ""))
            texts.append(text)
        shown.add_row(*texts, style="bold" if row.is_best else "")
    return shown
