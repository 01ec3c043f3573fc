"""A table on a screen of any width: columns are left out whole, digits never; else cards."""

from collections.abc import Sequence

from rich.console import Console, JustifyMethod
from rich.table import Table as RichTable
from rich.text import Text

from sft_app.reporting.sweep.sweep_table import Row, Table
from sft_app.reporting.terminal.plain_text import STATUS_COLOURS, plain

SHORT_GROUPS = {"perplexity at": "ppl", "passkey at": "passkey", "score at": "score"}
GAP = 2
NARROWEST_TABLE = 60
"""Columns of a screen below which each row is a card: a phone."""
HEAD_OF_A_CARD = 3
"""Columns that head a card without a name: status, context, method."""

FIRST_TO_GO = (
    "beyond", "GPU-hours", "CPU process-hours", "time", "peak memory", "tokens/s", "cost",
    "held-out loss",
)  # fmt: skip
"""Titles in the order in which they are left out; after them the shorter evaluation lengths."""


def print_table(table: Table, console: Console, *, first: str = "", alike: bool = True) -> None:
    """Print as many columns as the screen has room for, or a card a row on a narrow one.

    `first` heads the rows' names (empty: they are left out). `alike`: show columns in which all
    rows agree, too.
    """
    kept = [
        index
        for index, column in enumerate(table.columns)
        if alike
        or column.title == "status"
        or len({row.values[index].text for row in table.rows}) > 1
    ]
    if console.width < NARROWEST_TABLE:
        _print_cards(table, kept, console, first)
        return
    kept, num_left_out = fitting(table, kept, console.width, first)
    shown = RichTable(box=None, header_style="dim", padding=(0, GAP, 0, 0))
    if first:
        shown.add_column(plain(first), no_wrap=True)
    for index in kept:
        justify: JustifyMethod = "right" if table.columns[index].is_number else "left"
        shown.add_column(plain(title(table, index)), justify=justify, no_wrap=True)
    for row in table.rows:
        name = [plain(row.name)] if first else []
        texts = [_text(row, index) for index in kept]
        shown.add_row(*name, *texts, style="bold" if row.is_best else "")
    console.print(shown)
    if num_left_out:
        columns = "1 column" if num_left_out == 1 else f"{num_left_out} columns"
        console.print(f"({columns} left out for want of room; the report has all.)", style="dim")


def fitting(
    table: Table, columns: Sequence[int], width: int, first: str = ""
) -> tuple[list[int], int]:
    """Return the columns (indices) that fit into `width`, and how many were left out."""
    kept = list(columns)
    names = max((len(row.name) for row in table.rows), default=0) if first else 0
    own = max(len(first), names) + GAP if first else 0
    texts = {
        index: [title(table, index), *(row.values[index].brief for row in table.rows)]
        for index in kept
    }
    widths = {index: max(map(len, shown)) for index, shown in texts.items()}
    for index in sorted(kept, key=lambda index: _keeping(table, index)):
        if own + sum(widths[i] + GAP for i in kept) <= width or len(kept) == 1:
            break
        kept.remove(index)
    return kept, len(columns) - len(kept)


def title(table: Table, index: int) -> str:
    """Return a column's title, with what stands over it in brief: `ppl 32k`."""
    column = table.columns[index]
    return f"{SHORT_GROUPS.get(column.group, '')} {column.title}".strip()


def _keeping(table: Table, index: int) -> tuple[int, int]:
    """How much a column matters: those that say which cell it is, and the longest length, most."""
    column = table.columns[index]
    if column.title in FIRST_TO_GO:
        return (0, FIRST_TO_GO.index(column.title))
    if column.group:
        return (1, index)
    return (2, -index)


def _print_cards(table: Table, kept: list[int], console: Console, first: str) -> None:
    num_in_head = 0 if first else HEAD_OF_A_CARD
    for row in table.rows:
        head = [_text(row, index) for index in kept[:num_in_head]]
        name = [plain(f"{first} {row.name}")] if first else []
        console.print(Text("  ").join([*name, *head]), style="bold")
        items = [
            Text(f"{title(table, index)} ", style="dim") + _text(row, index)
            for index in kept[num_in_head:]
        ]
        for line in _packed(items, console.width - GAP):
            console.print(Text(" " * GAP) + line)


def _packed(items: list[Text], width: int) -> list[Text]:
    """As many items a line as fit; none is broken."""
    lines: list[Text] = []
    for item in items:
        if lines and lines[-1].cell_len + 3 + item.cell_len <= width:
            lines[-1] = lines[-1] + Text(" · ", style="dim") + item
        else:
            lines.append(item)
    return lines


def _text(row: Row, index: int) -> Text:
    value = row.values[index]
    text = plain(value.brief)
    text.stylize(STATUS_COLOURS.get(value.status, ""))
    return text
