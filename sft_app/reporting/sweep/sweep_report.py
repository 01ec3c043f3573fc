"""report.html of a sweep: the answer, and everything it rests on."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from sft_app.config.schema.sweep import BestBy
from sft_app.records.run_files import REPORT, write_atomically
from sft_app.reporting.page import format_values
from sft_app.reporting.page.html_templates import render
from sft_app.reporting.run import summary
from sft_app.reporting.run.summary import KeyNumber
from sft_app.reporting.sweep.answer_table import build_answer_table
from sft_app.reporting.sweep.cells import CellRecord, collect_sweep
from sft_app.reporting.sweep.comparability import cautions
from sft_app.reporting.sweep.failed_cells import collect_failures
from sft_app.reporting.sweep.next_commands import next_commands
from sft_app.reporting.sweep.rank_settings import (
    RankedSettings,
    asked_best_by,
    gain,
    rank_settings,
    why_none,
)
from sft_app.reporting.sweep.seed_groups import Setting, group_seeds
from sft_app.reporting.sweep.seed_table import build_seed_table
from sft_app.reporting.sweep.settings_diff import differences
from sft_app.reporting.sweep.sweep_figures import (
    cost_panels,
    loss_panels,
    perplexity_panels,
    quality_panel,
)
from sft_app.reporting.sweep.sweep_table import build_table, hours, hours_label, money
from sft_app.reporting.sweep.variant_colours import choose_colours

MOST_PROBLEMS = 20


@dataclass(kw_only=True)
class Answer:
    """Holds the best setting, in words."""

    headline: str
    measured: str
    rule: str
    caution: str
    cells: list[CellRecord]


def write_sweep_report(
    sweep_dir: Path,
    price_per_gpu_hour: float | None = None,
    cells: list[CellRecord] | None = None,
    best_by: BestBy | None = None,
) -> Path:
    """Write report.html of a sweep; returns its path.

    `cells` are those of `sweep_dir`, when they have been collected already; `best_by`: null: as
    the sweep was started with.
    """
    if cells is None:
        cells = collect_sweep(sweep_dir, price_per_gpu_hour)
    path = sweep_dir / REPORT
    page = sweep_page(
        sweep_dir, cells, price_per_gpu_hour, best_by or asked_best_by(sweep_dir, cells)
    )
    write_atomically(path, page)
    return path


def sweep_page(
    sweep_dir: Path, cells: list[CellRecord], price: float | None, best_by: BestBy
) -> str:
    """Return the page of a sweep as HTML."""
    differing = differences(cells)
    settings = group_seeds(cells, differing)
    ranked = rank_settings(settings, best_by=best_by)
    colours = choose_colours(settings, ranked.settings if ranked else [])
    panels = [
        perplexity_panels(settings, colours),
        *([quality_panel(settings, colours, ranked)] if ranked else []),
        cost_panels(settings, colours),
        loss_panels(settings, colours),
    ]
    name = sweep_dir.absolute().name
    has_seeds = any(len(setting.cells) > 1 for setting in settings)
    return render(
        "sweep_report.html",
        script="sort_table.js",
        title=f"Sweep {name}",
        directory="/".join(sweep_dir.absolute().parts[-3:]).lstrip("/"),
        name=name,
        sentence=status_sentence(cells),
        key_numbers=_key_numbers(cells, price),
        what=what_was_compared(cells),
        is_running=any(cell.status in ("running", "pending") for cell in cells),
        answers=build_answer_table(settings, best_by),
        commands=next_commands(sweep_dir, cells, ranked),
        answer=answer(ranked) if ranked else None,
        no_answer=why_none(best_by),
        cautions=cautions(cells),
        table=build_table(cells, differing, ranked.best.completed if ranked else []),
        seed_table=build_seed_table(settings, ranked) if has_seeds else None,
        panels=[group for group in panels if group.figures],
        failures=collect_failures(cells),
        differing=differing,
        problems=_problems(cells),
    )


def status_sentence(cells: list[CellRecord]) -> str:
    """Count the cells by status: `12 cells: 10 completed, 1 out of memory, 1 running.`"""
    return f"{len(cells)} cell{'s' if len(cells) != 1 else ''}: {status_counts(cells)}."


def status_counts(cells: list[CellRecord]) -> str:
    """Count the cells by status: `10 completed, 1 out of memory`."""
    counts = Counter(cell.status for cell in cells)
    labels = summary.STATUS_LABELS.items()
    return ", ".join(f"{counts[status]} {label}" for status, label in labels if counts[status])


def what_was_compared(cells: list[CellRecord]) -> str:
    """Name model and data: `SmolLM2-135M on chat.json`; of several, how many."""
    models = sorted({format_values.model_name(cell.model) for cell in cells if cell.model})
    data = sorted({name for cell in cells if (name := summary.data_of(cell.run))})
    model = models[0] if len(models) == 1 else f"{len(models)} models"
    return f"{model} on {data[0] if len(data) == 1 else f'{len(data)} data sets'}"


def answer(ranked: RankedSettings) -> Answer:
    """Say which setting is best, by which rule, and how sure that is."""
    tied = [setting_name(setting) for setting in ranked.tied[1:]]
    caution = ""
    if tied:
        others = tied[0] if len(tied) == 1 else f"{tied[0]} and {len(tied) - 1} others"
        caution = (
            f"It is a tie with {others}: what lies between them is no more than what other seeds "
            "would change. More seeds would be needed to tell them apart."
        )
    return Answer(
        headline=f"{'Tie' if tied else 'Best'}: {setting_name(ranked.best)}",
        measured=f"{ranked.criterion.measured}: {gain(ranked)}",
        rule=ranked.rule,
        caution=caution,
        cells=ranked.best.completed,
    )


def setting_name(setting: Setting) -> str:
    """Name a setting with its length: `yarn at 32,768 tokens`."""
    length = setting.context_length
    return f"{setting.variant} at {length:,} tokens" if length else setting.variant


def _key_numbers(cells: list[CellRecord], price: float | None) -> list[KeyNumber]:
    numbers = []
    used = [cell.gpu_hours for cell in cells if cell.gpu_hours is not None]
    if used:
        numbers.append(KeyNumber(label=hours_label(cells), value=hours(sum(used))))
        if price is not None:
            detail = f"at {money(price)} an hour"
            numbers.append(KeyNumber(label="cost", value=money(price * sum(used)), detail=detail))
    return numbers


def _problems(cells: list[CellRecord]) -> list[str]:
    """What could not be read of cells that should be whole; of the others it is no news.

    The same problem in many cells is one sentence.
    """
    by_problem: dict[str, list[str]] = {}
    for cell in cells:
        if cell.status in ("completed", "unreadable"):
            for problem in cell.run.problems:
                by_problem.setdefault(problem, []).append(cell.name)
    sentences = [f"{_named(names)}: {problem}" for problem, names in by_problem.items()]
    more = len(sentences) - MOST_PROBLEMS
    return sentences[:MOST_PROBLEMS] + ([f"… and {more} more problems."] if more > 0 else [])


def _named(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} and {len(names) - 1} other cells"
