"""The table of settings, each over its seeds: mean and standard deviation."""

import math

from sft_app.reporting.page import format_values
from sft_app.reporting.sweep.cells import CellRecord
from sft_app.reporting.sweep.criteria import heldout_loss
from sft_app.reporting.sweep.rank_settings import RankedSettings, with_spread
from sft_app.reporting.sweep.seed_groups import Measure, Setting
from sft_app.reporting.sweep.sweep_csv import evaluation_lengths
from sft_app.reporting.sweep.sweep_table import Column, Row, Table, Value, spread_out


def build_seed_table(settings: list[Setting], ranked: RankedSettings | None) -> Table:
    """Build the table, best first; settings that cannot be ranked follow."""
    ranking = ranked.settings if ranked else []
    others = [setting for setting in settings if all(setting is not other for other in ranking)]
    cells = [cell for setting in settings for cell in setting.cells]
    lengths = spread_out(evaluation_lengths(cells))
    columns = [
        Column(title="context"),
        Column(title="seeds completed"),
        Column(title="held-out loss"),
        *(Column(title=format_values.length(n), group="perplexity at") for n in lengths),
        Column(title="tokens/s"),
    ]
    rows = [
        Row(
            name=setting.variant,
            link="",
            values=_values(setting, lengths),
            is_best=ranked is not None and setting is ranked.best,
        )
        for setting in [*ranking, *others]
    ]
    return Table(columns=columns, rows=rows)


def _values(setting: Setting, lengths: list[int]) -> list[Value]:
    length = setting.context_length
    return [
        Value(text=format_values.count(length), sort=str(length or "")),
        Value(
            text=f"{len(setting.completed)} of {len(setting.cells)}",
            sort=str(len(setting.completed)),
        ),
        _value(setting, heldout_loss, format_values.loss),
        *(_value(setting, _perplexity_at(n), format_values.perplexity) for n in lengths),
        _value(
            setting,
            lambda cell: cell.result.tokens_per_second if cell.result else None,
            format_values.rate,
        ),
    ]


def _value(setting: Setting, measure: Measure, as_text: format_values.Formatter) -> Value:
    value = setting.spread(measure)
    sort = repr(value.mean) if value is not None and math.isfinite(value.mean) else ""
    return Value(text=with_spread(value, as_text), sort=sort)


def _perplexity_at(length: int) -> Measure:
    def measure(cell: CellRecord) -> float | None:
        measurement = cell.at_length(length, "after")
        return measurement.perplexity if measurement else None

    return measure
