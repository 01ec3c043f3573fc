"""Which runs a directory holds, and what a user means who points at it."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from sft_app.records.run_files import SWEEP_CSV
from sft_app.reporting.run.read_run import is_run, last_written

_DATE = re.compile(r"\d{4}-\d\d-\d\d")


@dataclass(kw_only=True)
class Found:
    """Holds the run, or the sweep, that a user meant."""

    directory: Path
    is_sweep: bool
    all: list["Found"] = field(default_factory=list)
    """All runs and sweeps, newest first, where this is the newest of several."""

    @property
    def chosen_from(self) -> int:
        """Return how many runs and sweeps there were."""
        return len(self.all) or 1


def find_jobs(root: Path) -> list[Path]:
    """List every run below `root` by name. A run is not searched for others."""
    jobs = []
    for folder, subfolders, _ in os.walk(root):
        directory = Path(folder)
        if directory != root and is_run(directory):
            jobs.append(directory)
            subfolders.clear()
        else:
            subfolders[:] = [name for name in subfolders if not name.startswith(".")]
    return sorted(jobs)


def find(directory: Path) -> Found | None:
    """Find the run, or the sweep, that `directory` is; of a folder of many (outputs/), the newest.

    None when there is no run at all.
    """
    if is_run(directory):
        return Found(directory=directory, is_sweep=False)
    jobs = find_jobs(directory)
    if not jobs:
        return None
    if _is_sweep_root(directory.absolute()):
        return Found(directory=directory, is_sweep=True)
    newest: dict[Path, float] = {}
    is_sweep: dict[Path, bool] = {}
    for job in jobs:
        root = _sweep_above(job, directory)
        owner = root or job
        is_sweep[owner] = root is not None
        newest[owner] = max(newest.get(owner, 0.0), last_written(job))
    if not any(is_sweep.values()) and not _holds_dates(directory, jobs):
        return Found(directory=directory, is_sweep=True)
    ordered = sorted(newest, key=lambda owner: (newest[owner], str(owner)), reverse=True)
    found = [Found(directory=owner, is_sweep=is_sweep[owner]) for owner in ordered]
    return Found(directory=ordered[0], is_sweep=is_sweep[ordered[0]], all=found)


def _sweep_above(job: Path, top: Path) -> Path | None:
    """The sweep that `job` belongs to, strictly between `top` and the job."""
    for folder in job.parents:
        if folder == top:
            return None
        if _is_sweep_root(folder.absolute()):
            return folder
    return None


def _is_sweep_root(folder: Path) -> bool:
    """outputs/sweeps/<name>, outputs/multirun/<date>/<time>, or where Hydra left its mark."""
    parents = folder.parents
    return (
        (folder / "multirun.yaml").is_file()
        or (folder / SWEEP_CSV).is_file()
        or (len(parents) > 0 and parents[0].name == "sweeps")
        or (len(parents) > 1 and parents[1].name == "multirun")
    )


def _holds_dates(directory: Path, jobs: list[Path]) -> bool:
    """Whether runs lie in folders by date, as in outputs/<date>/<time>: unrelated runs."""
    if _DATE.fullmatch(directory.absolute().name):
        return True
    return any(_DATE.fullmatch(part) for job in jobs for part in job.relative_to(directory).parts)
