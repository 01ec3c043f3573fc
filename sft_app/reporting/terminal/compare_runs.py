"""Two runs side by side: what was set otherwise, and what came of it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from string import ascii_uppercase

from rich.console import Console

from sft_app.reporting.page import format_values
from sft_app.reporting.run import summary
from sft_app.reporting.sweep.cells import CellRecord, read_cell
from sft_app.reporting.sweep.comparability import cautions
from sft_app.reporting.sweep.settings_diff import differences, setting_text
from sft_app.reporting.sweep.sweep_csv import evaluation_lengths
from sft_app.reporting.sweep.sweep_table import Column, Row, Table, Value
from sft_app.reporting.terminal.fit_table import fitting, print_table
from sft_app.reporting.terminal.plain_text import plain

Measure = tuple[str, Callable[[CellRecord], str]]


def print_comparison(directories: Sequence[Path], console: Console) -> None:
    """Print one column a run: status, settings that differ, losses, speed, memory, time.

    Where the names leave no room for the columns, a letter stands for each.
    """
    cells = [read_cell(directory, directory.parent) for directory in directories]
    rows: list[Measure] = [("status", lambda cell: summary.STATUS_LABELS[cell.status])]
    for difference in differences(cells):
        for key in (difference.key, *difference.followers):
            rows.append((key, _setting(key)))
    rows += [
        ("held-out loss before", lambda c: _loss(c, "before")),
        ("held-out loss after", lambda c: _loss(c, "after")),
    ]
    for length in evaluation_lengths(cells):
        rows.append((f"perplexity at {format_values.length(length)}", _perplexity(length)))
    rows += [
        ("steps", lambda c: format_values.count(c.result.steps if c.result else None)),
        ("tokens per second",
         lambda c: format_values.rate(c.result.tokens_per_second if c.result else None)),
        ("peak memory", lambda c: format_values.byte_size(c.peak_memory_bytes)),
        ("wall time",
         lambda c: format_values.duration(summary.total_seconds(c.run))),
    ]  # fmt: skip
    named = [str(directory) for directory in directories]
    table = _table(named, rows, cells)
    if fitting(table, range(len(named)), console.width, "run")[1]:
        short = [f"({ascii_uppercase[n % 26]}{n // 26 or ''})" for n in range(len(named))]
        for letter, name in zip(short, named, strict=True):
            console.print(plain(f"{letter} {name}"), soft_wrap=True)
        table = _table(short, rows, cells)
    print_table(table, console, first="run")
    for sentence in cautions(cells):
        console.print(plain(f"CAUTION {sentence}"), style="yellow")


def _table(names: Sequence[str], rows: Sequence[Measure], cells: list[CellRecord]) -> Table:
    return Table(
        columns=[Column(title=name, is_number=False) for name in names],
        rows=[_row(label, text, cells) for label, text in rows],
    )


def _row(label: str, text: Callable[[CellRecord], str], cells: list[CellRecord]) -> Row:
    values = [Value(text=text(cell), is_number=False) for cell in cells]
    return Row(name=label, link="", values=values)


def _setting(key: str) -> Callable[[CellRecord], str]:
    return lambda cell: setting_text(cell, key) or format_values.NOT_MEASURED


def _loss(cell: CellRecord, when: str) -> str:
    return format_values.loss(summary.loss_of(cell.heldout(when)))


def _perplexity(length: int) -> Callable[[CellRecord], str]:
    def text(cell: CellRecord) -> str:
        before, after = (
            summary.perplexity_of(cell.at_length(length, when)) for when in ("before", "after")
        )
        if before is None and after is None:
            return format_values.NOT_MEASURED
        return f"{format_values.perplexity(before)} → {format_values.perplexity(after)}"

    return text
