"""sweep.csv: a line a cell, for spreadsheets and data frames."""

import csv
import io
from pathlib import Path
from typing import Any

from sft_app.evaluation.scoring.effective_length import mean_scores
from sft_app.records.run_files import SWEEP_CSV, write_atomically
from sft_app.reporting.run.long_context import cliff, scored_effective_length
from sft_app.reporting.sweep.cells import CellRecord
from sft_app.reporting.sweep.settings_diff import differences, setting_text


def write_sweep_csv(sweep_dir: Path, cells: list[CellRecord]) -> Path:
    """Write sweep.csv; returns its path."""
    path = sweep_dir / SWEEP_CSV
    write_atomically(path, csv_text(cells))
    return path


def csv_text(cells: list[CellRecord]) -> str:
    """Return the file's text: each cell, how it differs, what was measured, how it ended."""
    found = differences(cells)
    keys = [key for difference in found for key in (difference.key, *difference.followers)]
    lengths, passkeys = evaluation_lengths(cells), passkey_lengths(cells)
    rows = [_row(cell, keys, lengths, passkeys) for cell in cells]
    text = io.StringIO()
    writer = csv.DictWriter(
        text, fieldnames=list(rows[0]) if rows else ["cell"], lineterminator="\n"
    )
    writer.writeheader()
    for row in rows:
        writer.writerow({column: _plain(value) for column, value in row.items()})
    return text.getvalue()


def evaluation_lengths(cells: list[CellRecord]) -> list[int]:
    """Return every length (tokens) at which any cell measured a perplexity, before or after."""
    evaluations = [cell.evaluation(when) for cell in cells for when in ("before", "after")]
    return sorted({int(length) for e in evaluations if e for length in e.by_length})


def passkey_lengths(cells: list[CellRecord]) -> list[int]:
    """Return every length (tokens) at which any cell looked for passkeys, before or after."""
    evaluations = [cell.evaluation(when) for cell in cells for when in ("before", "after")]
    return sorted({int(length) for e in evaluations if e for length in e.passkey})


def score_lengths(cells: list[CellRecord]) -> list[int]:
    """Return every length (tokens) at which any cell has a mean score, before or after."""
    evaluations = [cell.evaluation(when) for cell in cells for when in ("before", "after")]
    return sorted({length for e in evaluations if e for length in mean_scores(e.tasks)})


def _row(
    cell: CellRecord, keys: list[str], lengths: list[int], passkeys: list[int]
) -> dict[str, Any]:
    result = cell.result
    row: dict[str, Any] = {
        "cell": cell.name,
        "status": cell.status,
        "model": cell.model,
        "context_length": cell.context_length,
        "rope_method": cell.method,
        "rope_factor": result.rope_factor if result else None,
        "seed": cell.seed,
        "same_as": cell.same_as,
    }
    for key in keys:
        row.setdefault(key, setting_text(cell, key))
    for when in ("before", "after"):
        heldout = cell.heldout(when)
        row[f"heldout_loss_{when}"] = heldout.loss if heldout else None
        row[f"heldout_perplexity_{when}"] = heldout.perplexity if heldout else None
    for length in lengths:
        for when in ("before", "after"):
            measurement = cell.at_length(length, when)
            row[f"loss_at_{length}_{when}"] = measurement.loss if measurement else None
            row[f"perplexity_at_{length}_{when}"] = measurement.perplexity if measurement else None
    for length in passkeys:
        for when in ("before", "after"):
            row[f"passkey_at_{length}_{when}"] = cell.passkey(length, when)
    for when in ("before", "after"):
        row[f"effective_length_{when}"] = scored_effective_length(cell.evaluation(when))
    row["score_change_beyond"] = cliff(cell.evaluation("after"), cell.context_length or 0)
    memory = result.peak_memory_bytes if result else {}
    row |= {
        "train_loss_first": result.train_loss_first if result else None,
        "train_loss_last": result.train_loss_last if result else None,
        "steps": result.steps if result else None,
        "tokens": result.tokens.total if result else None,
        "supervised_tokens": result.tokens.supervised if result else None,
        "padding_tokens": result.tokens.padding if result else None,
        "tokens_per_second": result.tokens_per_second if result else None,
        "model_flops_utilisation": result.model_flops_utilisation if result else None,
        "measured_matmul_utilisation": result.measured_matmul_utilisation if result else None,
        "peak_device_memory_bytes": memory.get("device"),
        "peak_host_memory_bytes": memory.get("host"),
        "train_seconds": result.seconds.get("train") if result else None,
        "total_seconds": result.seconds.get("total") if result else None,
        "earlier_seconds": result.seconds_before if result else None,
        "device": result.device if result else None,
        "processes": result.world_size if result else None,
        "gpu_hours": cell.gpu_hours,
        "cost": cell.cost,
        "started_at": result.started_at if result else None,
        "finished_at": result.finished_at if result else None,
        "error_type": result.error.type if result and result.error else None,
        "error_message": result.error.message if result and result.error else None,
    }
    return row


def _plain(value: Any) -> Any:
    """A spreadsheet runs a text that starts like a formula: an apostrophe makes it a text again."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        try:
            float(value)
        except ValueError:
            return f"'{value}"
    return value
