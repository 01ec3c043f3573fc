"""How a rank tells the parent why it failed: the earliest one is the root cause."""

import dataclasses
import json
import time
import traceback
from pathlib import Path

from sft_app.records.result import RunError, Status
from sft_app.records.run_files import write_atomically

FAILURES = ".failures"
"""Folder in the run's directory; empty or absent after a run that went well."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failure:
    """Why one rank failed, and when."""

    status: Status
    error: RunError
    time: float
    """Seconds since the epoch: orders the ranks."""


def record_failure(
    run_dir: Path, error: BaseException, *, rank: int, out_of_memory: bool
) -> Failure:
    """Write this rank's failure where the parent looks for it."""
    failure = Failure(
        status=Status.out_of_memory if out_of_memory else Status.failed,
        error=RunError(
            type=type(error).__name__,
            message=str(error),
            rank=rank,
            traceback="".join(traceback.format_exception(error)),
        ),
        time=time.time(),
    )
    folder = run_dir / FAILURES
    folder.mkdir(exist_ok=True)
    text = json.dumps(dataclasses.asdict(failure), indent=2)
    write_atomically(folder / f"rank-{rank}.json", text)
    return failure


def first_failure(run_dir: Path) -> Failure | None:
    """Return the failure that came first; the others are mostly its echo, such as a lost peer."""
    failures = [_read(path) for path in (run_dir / FAILURES).glob("rank-*.json")]
    return min(failures, key=lambda failure: failure.time, default=None)


def clear_failures(run_dir: Path) -> None:
    """Forget the failures of an earlier start."""
    folder = run_dir / FAILURES
    for path in folder.glob("rank-*.json"):
        path.unlink()
    if folder.is_dir():
        folder.rmdir()


def _read(path: Path) -> Failure:
    raw = json.loads(path.read_text(encoding="utf-8"))
    return Failure(status=Status(raw["status"]), error=RunError(**raw["error"]), time=raw["time"])
