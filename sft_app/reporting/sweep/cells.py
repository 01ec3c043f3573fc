"""The cells of a sweep: each job's files, its settings, and what it cost."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sft_app.evaluation.scoring.effective_length import mean_scores
from sft_app.records.identity import equal_but_for_rope, read_identity
from sft_app.records.result import Evaluation, LossMeasurement, RunResult
from sft_app.reporting.run import summary
from sft_app.reporting.run.find_runs import find_jobs
from sft_app.reporting.run.read_run import RunFolder, read_run

Settings = dict[str, Any]
"""Dotted key -> value."""


@dataclass(kw_only=True)
class CellRecord:
    """Holds one job of a sweep: its files, its settings, and what it cost."""

    name: str
    """The job's directory, relative to the sweep's."""
    run: RunFolder
    settings: Settings
    settings_complete: bool
    """Whether `settings` is a whole configuration, and not just the overrides."""
    model: str
    context_length: int | None
    method: str | None
    seed: int | None
    gpu_hours: float | None
    """Processes times wall hours; each process drives one GPU (or is one, on a CPU)."""
    same_as: str | None = None
    """The cell that ran for this one as well, because both would have done the same."""
    cost: float | None
    """GPU-hours times the price, when a price was given."""

    @property
    def status(self) -> str:
        """Return how the job ended, or stands."""
        return self.run.status

    @property
    def result(self) -> RunResult | None:
        """Return what result.json holds; None when there is none that can be read."""
        return self.run.result

    @property
    def is_completed(self) -> bool:
        """Tell whether the job completed."""
        return self.run.status == "completed"

    def evaluation(self, when: str) -> Evaluation | None:
        """Return the evaluation `before` or `after` training."""
        if self.result is None:
            return None
        if when == "before":
            return self.result.evaluation_before
        return self.result.evaluation_after

    def heldout(self, when: str) -> LossMeasurement | None:
        """Return the held-out measurement `before` or `after` training."""
        evaluation = self.evaluation(when)
        return evaluation.heldout if evaluation else None

    def at_length(self, length: int, when: str) -> LossMeasurement | None:
        """Return what was measured at `length` tokens, `before` or `after` training."""
        evaluation = self.evaluation(when)
        return evaluation.by_length.get(str(length)) if evaluation else None

    def passkey(self, length: int, when: str) -> float | None:
        """Return the share of passkeys found at `length` tokens, `before` or `after` training."""
        evaluation = self.evaluation(when)
        return evaluation.passkey.get(str(length)) if evaluation else None

    def score(self, length: int, when: str) -> float | None:
        """Return the mean score (0 to 1) at `length` tokens, of what effective length is told by.

        The tasks that were measured at every length: others are easier or harder, and the mean
        would change with the length for their coming and going alone.
        """
        evaluation = self.evaluation(when)
        return mean_scores(evaluation.tasks).get(length) if evaluation else None

    @property
    def peak_memory_bytes(self) -> int | None:
        """Return the peak memory of the device where there is one, else of the host."""
        memory = self.result.peak_memory_bytes if self.result else {}
        return memory.get("device") or memory.get("host")

    @property
    def rope(self) -> str:
        """Return the RoPE method with its factor, `yarn × 4`."""
        return summary.rope_of(self.run) if self.settings_complete else self.method or "—"


def collect_sweep(sweep_dir: Path, price_per_gpu_hour: float | None = None) -> list[CellRecord]:
    """Read every job below `sweep_dir`, shortest context first; works while jobs are running."""
    cells = [read_cell(job, sweep_dir, price_per_gpu_hour) for job in find_jobs(sweep_dir)]
    by_name = {cell.name: cell for cell in cells}
    for cell in cells:
        if cell.status == "shared" and cell.result is not None:
            other = by_name.get(_beside(cell.name, cell.result.same_as))
            if other is not None and not _ran_for(other, cell):
                cell.run = dataclasses.replace(cell.run, status="pending")
            elif other is not None and other.status != "shared":
                _take_over(cell, other)
    return sorted(
        cells,
        key=lambda cell: (cell.context_length or 0, cell.method or "", cell.name),
    )


def _beside(name: str, other: str | None) -> str:
    folder, separator, _ = name.rpartition("/")
    return f"{folder}{separator}{other}"


def _ran_for(other: CellRecord, cell: CellRecord) -> bool:
    """Tell whether the cell that has the result still is what `cell` was to be: it may have been
    run anew with other settings or files, without `cell`, which then has no result."""
    identities = [read_identity(c.run.directory) for c in (other, cell)]
    known = [identity for identity in identities if identity is not None]
    return len(known) < 2 or equal_but_for_rope(*known)


def _take_over(cell: CellRecord, other: CellRecord) -> None:
    """Give a cell the result of the one that ran for it; what it cost is counted there."""
    own = cell.run
    cell.run = dataclasses.replace(other.run, config=own.config, overrides=own.overrides)
    cell.method, cell.same_as = other.method, other.name


def read_cell(job: Path, sweep_dir: Path, price: float | None = None) -> CellRecord:
    """Read one job, which is named by its place below `sweep_dir`."""
    run = read_run(job)
    settings = flatten(run.config) if run.config else _from_overrides(run.overrides)
    result = run.result
    hours = _gpu_hours(run)
    return CellRecord(
        name=job.relative_to(sweep_dir).as_posix(),
        run=run,
        settings=settings,
        settings_complete=bool(run.config),
        model=result.model if result else str(settings.get("model.name_or_path", "")),
        context_length=result.context_length if result else _whole(settings, "context_length"),
        method=_method(result, settings),
        seed=result.seed if result else _whole(settings, "seed"),
        gpu_hours=hours,
        cost=hours * price if hours is not None and price is not None else None,
    )


def flatten(config: dict[str, Any], prefix: str = "") -> Settings:
    """Return nested settings by their dotted keys."""
    flat: Settings = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _from_overrides(overrides: list[str]) -> Settings:
    """What little is known of a job that has not written its resolved configuration."""
    settings: Settings = {}
    for override in overrides:
        key, separator, text = override.partition("=")
        if separator:
            try:
                settings[key.lstrip("+~")] = yaml.safe_load(text)
            except yaml.YAMLError:
                settings[key.lstrip("+~")] = text
    return settings


def _method(result: RunResult | None, settings: Settings) -> str | None:
    if result is not None and result.rope_method is not None:
        return result.rope_method
    method = settings.get("rope.method", settings.get("rope"))
    return None if method is None else str(method)


def _whole(settings: Settings, key: str) -> int | None:
    value = settings.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _gpu_hours(run: RunFolder) -> float | None:
    """Of all starts: an interrupted cell has paid for those before the last as well."""
    if run.result is None:
        return None
    return run.result.all_process_seconds(summary.total_seconds(run) or 0.0) / 3600 or None
