"""The jobs of `sft-plan --multirun`, as one table or one JSON object."""

import json
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class JobRow:
    """One job."""

    name: str
    """Its overrides."""
    plan: dict[str, Any]


@dataclass
class PlannedJobs:
    """What has been planned, to be printed when all jobs have."""

    as_json: bool = False
    rows: list[JobRow] = field(default_factory=list)

    def print_rows(self) -> None:
        """Print all jobs; nothing where there was no sweep."""
        if not self.rows:
            return
        if self.as_json:
            jobs = [{"job": row.name, **row.plan} for row in self.rows]
            print(json.dumps({"jobs": jobs}, indent=2))
            return
        table = Table(box=None, header_style="dim")
        table.add_column("job", overflow="fold")
        for title in ("rope", "rows", "memory", "fits", "longest row", "time", "GPU-hours"):
            table.add_column(title, justify="right")
        for row in self.rows:
            table.add_row(row.name, *_values(row.plan))
        Console().print(table)


def _values(plan: dict[str, Any]) -> list[str]:
    hardware = plan["hardware"]
    memory = (hardware or plan)["memory"]["total"]
    rows = f"{plan['data']['packing']['rows']:,}"
    values = [plan["rope"]["method"], rows, f"{memory / 1e9:,.2f} GB"]
    if hardware is None:
        return [*values, "", "", "", ""]
    return [
        *values,
        "yes" if hardware["fits"] else "no",
        f"{hardware['longest']:,}",
        f"{hardware['seconds'] / 3600:,.2f} h",
        f"{hardware['gpu_hours']:,.2f}",
    ]
