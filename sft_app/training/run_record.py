"""Rank 0's record of the run in progress: result.json after each phase, so a crash loses little."""

import importlib.metadata
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import torch
import torch.distributed as dist

import sft_app
from sft_app.common import ranks
from sft_app.records.result import RunResult, Status, read_result
from sft_app.records.step_log import StepLine, note_step
from sft_app.training.metrics.peak_memory import peak_memory_bytes

RECORDED_PACKAGES = ("torch", "transformers", "accelerate", "tokenizers", "peft", "hydra-core")


class RunRecord:
    """Holds the RunResult that the parent began, times the phases, writes on rank 0 only."""

    def __init__(self, run_dir: Path, *, is_main: bool) -> None:
        """Go on with the result.json that the parent has begun in `run_dir`."""
        self.run_dir = run_dir
        self.is_main = is_main
        self.result: RunResult = read_result(run_dir)
        self.result.versions = versions()
        self.result.git_revision = git_revision()
        started = datetime.fromisoformat(self.result.started_at).timestamp()
        self.result.seconds["start"] = round(time.time() - started, 3)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a phase (wall seconds) and bring result.json up to date after it."""
        started = time.perf_counter()
        yield
        self.result.seconds[name] = round(time.perf_counter() - started, 3)
        self.write()

    def note_step(self, line: StepLine) -> None:
        """Note how far training has come; written by whoever calls `write` next."""
        note_step(self.result, line)

    def complete(self) -> None:
        """Write that the run has come to its end, and when."""
        started = datetime.fromisoformat(self.result.started_at).timestamp()
        self.result.status = Status.completed
        self.result.finished_at = datetime.now().astimezone().isoformat(timespec="seconds")
        self.result.seconds["total"] = round(time.time() - started, 3)
        self.write()

    def note_peak_memory(self, device: torch.device) -> None:
        """Note the largest rank's peaks; a collective: every rank calls it."""
        peaks = torch.tensor(peak_memory_bytes(), device=device)
        if ranks.is_distributed():
            dist.all_reduce(peaks, op=dist.ReduceOp.MAX)
        host, allocated = peaks.tolist()
        self.result.peak_memory_bytes = {"host": host}
        if device.type == "cuda":
            self.result.peak_memory_bytes["device"] = allocated

    def write(self) -> None:
        """Bring result.json up to date, on rank 0."""
        if self.is_main:
            self.result.write(self.run_dir)


def versions() -> dict[str, str]:
    """Return the versions of what decides a run's numbers."""
    found = {"python": platform.python_version(), "sft_app": sft_app.__version__}
    for package in RECORDED_PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_revision(source: Path = Path(__file__)) -> str | None:
    """Return the application's own commit where it runs from a checkout, + where it was changed.

    An installed package may lie below somebody else's repository, whose commit says nothing of it:
    only a repository that tracks the file `source` is asked.
    """
    git = ["git", "-C", str(source.parent)]
    tracked = [*git, "ls-files", "--error-unmatch", source.name]
    describe = [*git, "describe", "--always", "--dirty=+", "--abbrev=12"]
    try:
        subprocess.run(tracked, capture_output=True, timeout=10, check=True)
        answer = subprocess.run(describe, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None
