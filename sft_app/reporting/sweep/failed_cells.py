"""The cells that did not complete, by their true error: a hundred equal ones are one entry."""

import re
from dataclasses import dataclass

from sft_app.reporting.run import summary
from sft_app.reporting.sweep.cells import CellRecord

ENDED_BADLY = ("out_of_memory", "failed", "died", "interrupted", "skipped", "unreadable")


@dataclass(kw_only=True)
class FailedCells:
    """Holds the cells that ended in the same error."""

    status: str
    type: str
    message: str
    """The first cell's; the others' differ in numbers at most."""
    traceback: str
    cells: list[CellRecord]

    @property
    def lengths(self) -> list[int]:
        """Return the context lengths (tokens) of these cells, each once."""
        return sorted({cell.context_length for cell in self.cells if cell.context_length})


def collect_failures(cells: list[CellRecord]) -> list[FailedCells]:
    """Group the cells that ended badly by status and error."""
    failures: dict[tuple[str, str, str], FailedCells] = {}
    for cell in cells:
        if cell.status not in ENDED_BADLY:
            continue
        error = cell.result.error if cell.result else None
        kind = error.type if error else ""
        message = error.message if error else _without_error(cell)
        pattern = re.sub(r"\d[\d.,:]*", "#", summary.first_line(message))
        failure = failures.setdefault(
            (cell.status, kind, pattern),
            FailedCells(
                status=cell.status,
                type=kind,
                message=message,
                traceback=(error.traceback or "") if error else "",
                cells=[],
            ),
        )
        failure.cells.append(cell)
    return sorted(failures.values(), key=lambda failure: ENDED_BADLY.index(failure.status))


def _without_error(cell: CellRecord) -> str:
    if cell.status == "died":
        return "Its process is gone, and nobody concluded it: the same command goes on."
    if cell.status == "interrupted":
        return "Ended by a signal."
    return " ".join(cell.run.problems[:1]) or "No error was recorded."
