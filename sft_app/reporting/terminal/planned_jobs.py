"""The jobs of `sft-plan --multirun`, as one table or one JSON object."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from sft_app.reporting.sweep.sweep_table import Column, Row, Table, Value
from sft_app.reporting.terminal.fit_table import print_table

WIDTH_IN_A_FILE = 200
"""Columns where the output is no terminal."""


@dataclass(frozen=True)
class JobRow:
    """One job."""

    overrides: Sequence[str]
    plan: dict[str, Any]


@dataclass
class PlannedJobs:
    """What has been planned, to be printed when all jobs have."""

    as_json: bool = False
    rows: list[JobRow] = field(default_factory=list)

    def print_rows(self, console: Console | None = None) -> None:
        """Print all jobs; nothing where there was no sweep."""
        if not self.rows:
            return
        names = job_names([row.overrides for row in self.rows])
        if self.as_json:
            jobs = [
                {"job": name, "overrides": list(row.overrides), **row.plan}
                for name, row in zip(names, self.rows, strict=True)
            ]
            print(json.dumps({"jobs": jobs}, indent=2))
            return
        print_table(self._table(names), console or _console(), first="job")

    def _table(self, names: Sequence[str]) -> Table:
        titles = ["rope", "rows", "memory"]
        if any(row.plan["hardware"] is not None for row in self.rows):
            titles += ["fits", "longest row", "time", "GPU-hours"]
        columns = [Column(title=title, is_number=title not in ("rope", "fits")) for title in titles]
        rows = [
            Row(
                name=name,
                link="",
                values=[Value(text=text) for text in _values(row.plan)[: len(titles)]],
            )
            for name, row in zip(names, self.rows, strict=True)
        ]
        return Table(columns=columns, rows=rows)


def job_names(jobs: Sequence[Sequence[str]]) -> list[str]:
    """Return what tells each job from the others: its settings that not all of them have.

    A setting is called by its last word, unless another one that differs has the same.
    """
    counts = Counter(word for words in jobs for word in set(words))
    own = [[word for word in words if counts[word] < len(jobs)] for words in jobs]
    keys = {word.partition("=")[0] for words in own for word in words}
    last = Counter(key.rpartition(".")[2] for key in keys)

    def short(word: str) -> str:
        key, _, value = word.partition("=")
        name = key.rpartition(".")[2]
        return f"{name if last[name] == 1 else key}={value}"

    return [" ".join(map(short, words)) or f"job {n}" for n, words in enumerate(own)]


def _values(plan: dict[str, Any]) -> list[str]:
    hardware = plan["hardware"]
    memory = (hardware or plan)["memory"]["total"]
    rows = f"{plan['data']['packing']['rows']:,}"
    values = [plan["rope"]["method"], rows, f"{memory / 2**30:,.2f} GiB"]
    if hardware is None:
        return [*values, "", "", "", ""]
    return [
        *values,
        "yes" if hardware["fits"] else "no",
        f"{hardware['longest']:,}",
        f"{hardware['seconds'] / 3600:,.2f} h",
        f"{hardware['gpu_hours']:,.2f}",
    ]


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDTH_IN_A_FILE)
