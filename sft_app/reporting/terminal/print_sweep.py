"""A sweep as a table, its failures, and the best setting."""

from pathlib import Path

from rich.console import Console
from rich.text import Text

from sft_app.config.schema.sweep import BestBy
from sft_app.reporting.run import summary
from sft_app.reporting.sweep.answer_table import build_answer_table
from sft_app.reporting.sweep.cells import CellRecord
from sft_app.reporting.sweep.comparability import cautions
from sft_app.reporting.sweep.failed_cells import collect_failures
from sft_app.reporting.sweep.next_commands import next_commands
from sft_app.reporting.sweep.rank_settings import (
    RankedSettings,
    asked_best_by,
    rank_settings,
    why_none,
)
from sft_app.reporting.sweep.seed_groups import group_seeds
from sft_app.reporting.sweep.settings_diff import differences
from sft_app.reporting.sweep.sweep_report import answer, status_sentence, what_was_compared
from sft_app.reporting.sweep.sweep_table import build_table
from sft_app.reporting.terminal.fit_table import print_table
from sft_app.reporting.terminal.plain_text import STATUS_COLOURS, plain
from sft_app.reporting.terminal.print_run import progress

MOST_ROWS = 60
MOST_ROWS_OF_MANY = 20
MOST_LENGTHS = 3
MOST_RUNNING = 16


def print_sweep(
    sweep_dir: Path, cells: list[CellRecord], console: Console, best_by: BestBy | None = None
) -> None:
    """Print the table of cells, how they ended, and which setting is best.

    `best_by`: null: as the sweep was started with.
    """
    best_by = best_by or asked_best_by(sweep_dir, cells)
    differing = differences(cells)
    settings = group_seeds(cells, differing)
    ranked = rank_settings(settings, best_by=best_by)
    shown = cells if len(cells) <= MOST_ROWS else _most_telling(cells, ranked)
    best = ranked.best.completed if ranked else []
    console.print(plain(what_was_compared(cells)), style="bold")
    print_table(build_table(shown, differing, best, MOST_LENGTHS), console, alike=False)
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
    for sentence in cautions(cells):
        console.print(Text.assemble(("CAUTION ", "yellow"), plain(sentence)))
    answers = build_answer_table(settings, best_by)
    if ranked:
        console.print()
        print_table(answers, console, first="trained at")
        found = answer(ranked)
        console.print(plain(f"{found.headline}. {found.measured}"), style="bold")
        if best_by is not BestBy.perplexity:
            console.print(plain(f"The rule: {found.rule}"))
        if found.caution:
            console.print(plain(found.caution))
    elif best_by is not BestBy.perplexity:
        console.print(plain(why_none(best_by)))
    commands = next_commands(sweep_dir, cells, ranked)
    if commands:
        console.print("Next:")
    for command in commands:
        console.print(plain(f"  {command.line}"), soft_wrap=True)
        console.print(plain(f"      to {command.purpose}"), style="dim")


def _most_telling(cells: list[CellRecord], ranked: RankedSettings | None) -> list[CellRecord]:
    """The best of many cells; the first ones while there is no best."""
    telling = [cell for setting in ranked.settings for cell in setting.completed] if ranked else []
    return (telling or cells)[:MOST_ROWS_OF_MANY]
