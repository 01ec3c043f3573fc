"""The sweep's answer: at each trained context length, which method, and what it came to."""

from dataclasses import dataclass

from sft_app.config.schema.sweep import BestBy
from sft_app.reporting.page import format_values
from sft_app.reporting.page.format_values import NOT_MEASURED
from sft_app.reporting.run import summary
from sft_app.reporting.sweep.cells import CellRecord
from sft_app.reporting.sweep.rank_settings import RankedSettings, rank_settings, with_spread
from sft_app.reporting.sweep.seed_groups import Measure, Setting
from sft_app.reporting.sweep.sweep_csv import evaluation_lengths, score_lengths
from sft_app.reporting.sweep.sweep_table import (
    Column,
    Row,
    Table,
    Value,
    hours,
    hours_label,
    money,
    spread_out,
)

MOST_LENGTHS = 6
MOST_TIED = 3


@dataclass(kw_only=True)
class ContextAnswer:
    """Holds what the settings of one trained context length came to."""

    context_length: int
    ranked: RankedSettings | None
    """None while nothing was measured at this length."""
    num_cells: int
    num_completed: int

    @property
    def verdict(self) -> str:
        """Name the best variant, or those that cannot be told apart: `tie: linear, yarn`."""
        if self.ranked is None:
            return "no result yet" if self.num_completed < self.num_cells else "not measured"
        tied = self.ranked.tied
        if len(tied) == 1:
            return tied[0].variant
        more = f" and {len(tied) - MOST_TIED} more" if len(tied) > MOST_TIED else ""
        return f"tie: {', '.join(sorted(s.variant for s in tied[:MOST_TIED]))}{more}"

    @property
    def next_best(self) -> str:
        """Name the best setting that is worse, and by how much: `linear, +4.1 %`."""
        if self.ranked is None:
            return format_values.NOT_MEASURED
        tied = self.ranked.tied
        others = [s for s in self.ranked.settings if all(s is not other for other in tied)]
        if not others:
            return format_values.NOT_MEASURED
        gap = self.ranked.criterion.gap_text(self.ranked.distance(others[0]))
        return f"{others[0].variant}, {gap}"


def answers(settings: list[Setting], best_by: BestBy = BestBy.perplexity) -> list[ContextAnswer]:
    """Rank the settings of each trained context length among themselves, shortest length first."""
    by_length: dict[int, list[Setting]] = {}
    for setting in settings:
        if setting.context_length:
            by_length.setdefault(setting.context_length, []).append(setting)
    return [
        ContextAnswer(
            context_length=length,
            ranked=rank_settings(group, length, best_by=best_by),
            num_cells=sum(len(setting.cells) for setting in group),
            num_completed=sum(len(setting.completed) for setting in group),
        )
        for length, group in sorted(by_length.items())
    ]


def build_answer_table(settings: list[Setting], best_by: BestBy = BestBy.perplexity) -> Table:
    """Build one row a trained context length, with what its best setting measured."""
    cells = [cell for setting in settings for cell in setting.cells]
    lengths = spread_out(evaluation_lengths(cells), MOST_LENGTHS)
    scores = spread_out(score_lengths(cells), MOST_LENGTHS)
    does_nothing = bool(scores) and not _does_a_task(cells)
    if does_nothing:  # as many columns of zeros say no more than one
        scores = []
    has_cost = any(cell.cost is not None for cell in cells)
    columns = [
        Column(title="best", is_number=False),
        *([] if lengths else [Column(title="held-out loss")]),
        *(Column(title=format_values.length(n), group="perplexity at") for n in lengths),
        *(Column(title=format_values.length(n), group="score at") for n in scores),
        *([Column(title="score")] if does_nothing else []),
        Column(title="tokens/s"),
        Column(title="peak memory"),
        Column(title="cost" if has_cost else hours_label(cells)),
        Column(title="next best", is_number=False),
    ]
    found = answers(settings, best_by)
    rows = [
        Row(
            name=f"{answer.context_length:,}",
            link="",
            values=_values(answer, lengths, scores, has_cost=has_cost),
        )
        for answer in found
    ]
    if does_nothing:
        at = [column.title for column in columns].index("score")
        nothing = Value(text="0 % at every length", short="0 %", sort="0")
        for answer, row in zip(found, rows, strict=True):
            is_measured = answer.ranked is not None
            row.values.insert(at, nothing if is_measured else Value(text=NOT_MEASURED))
    return Table(columns=columns, rows=rows)


def _does_a_task(cells: list[CellRecord]) -> bool:
    """Tell whether any cell answered anything of a task, at any length, before or after."""
    evaluations = [cell.evaluation(when) for cell in cells for when in ("before", "after")]
    tasks = [task for e in evaluations if e for task in e.tasks.values()]
    return any(score.score for task in tasks for score in task.values())


def _values(
    answer: ContextAnswer, lengths: list[int], scores: list[int], *, has_cost: bool
) -> list[Value]:
    best = answer.ranked.best if answer.ranked else None
    measured: list[tuple[Measure, Measure | None, format_values.Formatter]] = []
    if not lengths:
        measured.append((_heldout("after"), _heldout("before"), format_values.loss))
    for n in lengths:
        measured.append(
            (_perplexity(n, "after"), _perplexity(n, "before"), format_values.perplexity)
        )
    for n in scores:
        measured.append((_score(n, "after"), _score(n, "before"), format_values.share))
    measured += [
        (
            lambda cell: cell.result.tokens_per_second if cell.result else None,
            None,
            format_values.rate,
        ),
        (lambda cell: cell.peak_memory_bytes, None, format_values.byte_size),
        (lambda cell: cell.cost, None, money) if has_cost else (_hours, None, hours),
    ]
    return [
        Value(text=answer.verdict, is_number=False),
        *(_value(best, *what) for what in measured),
        Value(text=answer.next_best, is_number=False),
    ]


def _value(
    setting: Setting | None,
    after: Measure,
    before: Measure | None,
    as_text: format_values.Formatter,
) -> Value:
    if setting is None:
        return Value(text=format_values.NOT_MEASURED)
    earlier = setting.spread(before) if before else None
    later = setting.spread(after)
    # What a run costs differs between seeds by chance alone: only quality has a spread.
    text = with_spread(later, as_text) if before else as_text(later.mean if later else None)
    short = ""
    if as_text is format_values.rate:
        short = format_values.short_rate(later.mean if later else None)
    return Value(text=text, before=as_text(earlier.mean) if earlier else "", short=short)


def _heldout(when: str) -> Measure:
    return lambda cell: summary.loss_of(cell.heldout(when))


def _perplexity(length: int, when: str) -> Measure:
    return lambda cell: summary.perplexity_of(cell.at_length(length, when))


def _score(length: int, when: str) -> Measure:
    return lambda cell: cell.score(length, when)


def _hours(cell: CellRecord) -> float | None:
    return cell.gpu_hours
