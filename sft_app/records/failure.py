"""How a rank tells the parent why it failed: the earliest one is the root cause."""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import signal
import tempfile
import time
import traceback
from pathlib import Path

from sft_app.common.secrets import hide_secrets
from sft_app.records.result import RunError, Status
from sft_app.records.run_files import write_atomically

FAILURES = ".failures"
"""Folder in the run's directory; empty or absent after a run that went well."""

ENDED_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
"""What ends a rank below Python. An abort is left out: it is mostly the echo of a lost peer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failure:
    """Why one rank failed, and when."""

    status: Status
    error: RunError
    time: float
    """Seconds since the epoch: orders the ranks."""
    way_out: str | None = None
    """What the rank has found out about what to change."""


def record_failure(
    run_dir: Path, error: BaseException, *, rank: int, status: Status, way_out: str | None = None
) -> Failure:
    """Write this rank's failure where the parent looks for it."""
    failure = Failure(
        status=status,
        error=RunError(
            type=type(error).__name__,
            message=hide_secrets(str(error)),
            rank=rank,
            traceback=hide_secrets("".join(traceback.format_exception(error))),
        ),
        time=time.time(),
        way_out=way_out,
    )
    _write(run_dir, failure)
    return failure


def record_death(run_dir: Path, *, rank: int, signum: int) -> None:
    """Write for a rank that was ended by a signal what it could not write itself.

    It is the root cause: what the other ranks tell of is that they have lost it.
    """
    is_cause = signum in ENDED_FROM_OUTSIDE
    error = RunError(
        type="WorkerKilled" if signum == signal.SIGKILL else "WorkerDied",
        message=f"was ended by {signal.Signals(signum).name}",
        rank=rank,
    )
    at = 0.0 if is_cause else time.time()
    _write(run_dir, Failure(status=Status.failed, error=error, time=at))


def first_failure(run_dir: Path) -> Failure | None:
    """Return the failure that came first; the others are mostly its echo, such as a lost peer."""
    files = [path for folder in _folders(run_dir) for path in folder.glob("rank-*.json")]
    failures = [failure for path in files if (failure := _read(path)) is not None]
    return min(failures, key=lambda failure: failure.time, default=None)


def clear_failures(run_dir: Path) -> None:
    """Forget the failures of an earlier start, half-written ones as well."""
    for folder in _folders(run_dir):
        shutil.rmtree(folder, ignore_errors=True)


def _folders(run_dir: Path) -> tuple[Path, Path]:
    """Name the folder in the run's directory, and the one for when its disk is full."""
    name = hashlib.sha256(os.fspath(run_dir.absolute()).encode()).hexdigest()[:16]
    return run_dir / FAILURES, Path(tempfile.gettempdir()) / f"sft_app-{os.getuid()}-{name}"


def _write(run_dir: Path, failure: Failure) -> None:
    text = json.dumps(dataclasses.asdict(failure), indent=2)
    for folder in _folders(run_dir):
        with contextlib.suppress(OSError):
            folder.mkdir(exist_ok=True, mode=0o700)
            write_atomically(folder / f"rank-{failure.error.rank}.json", text)
            return


def _read(path: Path) -> Failure | None:
    """Read a rank's failure; None for one that is only half there."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        error = RunError(**raw["error"])
        status, way_out = Status(raw["status"]), raw.get("way_out")
        return Failure(status=status, error=error, time=raw["time"], way_out=way_out)
    except (OSError, ValueError, KeyError, TypeError):
        return None
