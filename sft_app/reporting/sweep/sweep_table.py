"""The table of all cells, as texts to show and values to sort by."""

import math
from dataclasses import dataclass, field
from urllib.parse import quote

from sft_app.records.run_files import REPORT
from sft_app.reporting.page import format_values
from sft_app.reporting.run import summary
from sft_app.reporting.run.long_context import cliff, points, scored_effective_length
from sft_app.reporting.sweep.cells import CellRecord
from sft_app.reporting.sweep.settings_diff import Difference, natural, setting_text, short_key
from sft_app.reporting.sweep.sweep_csv import evaluation_lengths, passkey_lengths

MOST_SETTING_COLUMNS = 6
MOST_LENGTH_COLUMNS = 8
OWN_COLUMN = ("context_length", "rope.method", "rope", "seed")


@dataclass(kw_only=True)
class Column:
    """Describes a column of a table."""

    title: str
    group: str = ""
    """A heading over several neighbouring columns."""
    is_number: bool = True


@dataclass(kw_only=True)
class Value:
    """Holds one value of a table, as text to show and to sort by."""

    text: str
    sort: str = ""
    """A number, or a text; empty: last."""
    before: str = ""
    """The same measurement before training."""
    note: str = ""
    """What goes with the text, in smaller letters below it."""
    status: str = ""
    is_number: bool = True
    short: str = ""
    """In fewer characters, for a terminal: 8k, 151k."""

    @property
    def brief(self) -> str:
        """Return the text for a terminal."""
        return self.short or self.text


@dataclass(kw_only=True)
class Row:
    """Holds a line of a table."""

    name: str
    link: str
    """The cell's own report, when it has one."""
    values: list[Value]
    is_best: bool = False


@dataclass(kw_only=True)
class Table:
    """Holds a table as texts."""

    columns: list[Column] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    num_settings_left_out: int = 0


def build_table(
    cells: list[CellRecord],
    differing: list[Difference],
    best: list[CellRecord],
    most_lengths: int = MOST_LENGTH_COLUMNS,
) -> Table:
    """Build the table of all cells; only the settings that differ have columns."""
    keys = [d.key for d in differing if d.key not in OWN_COLUMN]
    shown_keys = keys[:MOST_SETTING_COLUMNS]
    lengths = spread_out(evaluation_lengths(cells), most_lengths)
    passkeys = spread_out(passkey_lengths(cells), most_lengths)
    has_seeds = any(d.key == "seed" for d in differing)
    has_cost = any(cell.cost is not None for cell in cells)
    has_tasks = any((e := cell.evaluation("after")) and e.tasks for cell in cells)
    columns = [
        Column(title="status", is_number=False),
        Column(title="context"),
        Column(title="RoPE", is_number=False),
        *(Column(title=short_key(key), is_number=False) for key in shown_keys),
        *([Column(title="seed")] if has_seeds else []),
        Column(title="held-out loss"),
        *(Column(title=format_values.length(n), group="perplexity at") for n in lengths),
        *(Column(title=format_values.length(n), group="passkey at") for n in passkeys),
        *([Column(title="effective length"), Column(title="beyond")] if has_tasks else []),
        Column(title="tokens/s"),
        Column(title="peak memory"),
        Column(title="time"),
        Column(title=hours_label(cells)),
        *([Column(title="cost")] if has_cost else []),
    ]
    rows = [
        Row(
            name=cell.name,
            link=_link(cell),
            is_best=any(cell is other for other in best),
            values=_values(cell, shown_keys, lengths, passkeys, has_seeds, has_tasks, has_cost),
        )
        for cell in cells
    ]
    return Table(columns=columns, rows=rows, num_settings_left_out=len(keys) - len(shown_keys))


def hours_label(cells: list[CellRecord]) -> str:
    """Return what hours are called here: a CPU has no GPU-hours."""
    devices = {cell.result.device for cell in cells if cell.result and cell.result.device}
    on_cpu = bool(devices) and all(device.lower().startswith("cpu") for device in devices)
    return "CPU process-hours" if on_cpu else "GPU-hours"


def number(
    value: float | None,
    as_text: format_values.Formatter,
    before: float | None = None,
    short: format_values.Formatter | None = None,
) -> Value:
    """Return a value that sorts by its number."""
    sortable = value is not None and math.isfinite(value)
    return Value(
        text=as_text(value),
        sort=repr(float(value)) if sortable and value is not None else "",
        before=as_text(before) if before is not None else "",
        short=short(value) if short else "",
    )


def _short_length(value: float | None) -> str:
    return format_values.NOT_MEASURED if value is None else format_values.length(round(value))


def _reach(value: float | None) -> str:
    return "none" if value == 0 else format_values.count(value)


def hours(value: float | None) -> str:
    """Return hours with two decimals."""
    return format_values.NOT_MEASURED if value is None else f"{value:,.2f}"


def money(value: float | None) -> str:
    """Return an amount of money with two decimals."""
    return format_values.NOT_MEASURED if value is None else f"{value:,.2f}"


def _values(
    cell: CellRecord,
    keys: list[str],
    lengths: list[int],
    passkeys: list[int],
    has_seeds: bool,
    has_tasks: bool,
    has_cost: bool,
) -> list[Value]:
    result = cell.result
    seconds = summary.total_seconds(cell.run)
    losses = [m.loss if (m := cell.heldout(when)) else None for when in ("before", "after")]
    values = [
        Value(text=_status_text(cell), sort=cell.status, status=cell.status, is_number=False),
        number(cell.context_length, format_values.count, short=_short_length),
        Value(text=cell.rope, sort=cell.rope, is_number=False),
        *(_setting(cell, key) for key in keys),
        *([_seed(cell)] if has_seeds else []),
        number(losses[1], format_values.loss, losses[0]),
    ]
    for length in lengths:
        before, after = (
            m.perplexity if (m := cell.at_length(length, when)) else None
            for when in ("before", "after")
        )
        values.append(number(after, format_values.perplexity, before))
    for length in passkeys:
        after = cell.passkey(length, "after")
        values.append(number(after, format_values.share, cell.passkey(length, "before")))
    if has_tasks:
        evaluation = cell.evaluation("after")
        values.append(number(scored_effective_length(evaluation), _reach))
        values.append(number(cliff(evaluation, cell.context_length or 0), points))
    values += [
        number(
            result.tokens_per_second if result else None,
            format_values.rate,
            short=format_values.short_rate,
        ),
        number(cell.peak_memory_bytes, format_values.byte_size),
        number(seconds, format_values.duration),
        number(cell.gpu_hours, hours),
    ]
    return [*values, number(cell.cost, money)] if has_cost else values


def _status_text(cell: CellRecord) -> str:
    label = summary.STATUS_LABELS.get(cell.status, cell.status)
    if cell.same_as is not None:
        return f"{label}, shared"
    if cell.status == "running" and cell.run.metrics:
        return f"{label}, step {cell.run.metrics[-1].step:,}"
    return label


def _seed(cell: CellRecord) -> Value:
    text = format_values.NOT_MEASURED if cell.seed is None else str(cell.seed)
    return Value(text=text, sort="" if cell.seed is None else text)


def _setting(cell: CellRecord, key: str) -> Value:
    text = setting_text(cell, key)
    if text is None:
        return Value(text=format_values.NOT_MEASURED, is_number=False)
    is_word, size, _ = natural(text)
    shown = format_values.model_name(text) if key == "model.name_or_path" else text
    return Value(text=shown, sort=text if is_word else repr(size), is_number=False)


def _link(cell: CellRecord) -> str:
    has_report = (cell.run.directory / REPORT).is_file()
    return f"./{quote(cell.name)}/{REPORT}" if has_report else ""


def spread_out(lengths: list[int], most: int = MOST_LENGTH_COLUMNS) -> list[int]:
    """Return all of few lengths; of many, some from the shortest to the longest."""
    if len(lengths) <= most:
        return lengths
    last = len(lengths) - 1
    kept = {round(index * last / (most - 1)) for index in range(most)}
    return [lengths[index] for index in sorted(kept)]
