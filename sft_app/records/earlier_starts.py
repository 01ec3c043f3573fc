"""What the starts of a job have taken that the next one goes on from."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sft_app.records.liveness import last_stamp
from sft_app.records.result import RunResult, read_result
from sft_app.records.run_files import CHECKPOINTS


@dataclass(frozen=True, kw_only=True)
class EarlierStarts:
    """Holds the wall time of earlier starts, and what it comes to over their processes."""

    seconds: float = 0.0
    process_seconds: float = 0.0

    def note(self, result: RunResult) -> None:
        """Write it into the record of the start that goes on from them."""
        result.seconds_before = self.seconds
        result.process_seconds_before = self.process_seconds


def earlier_starts(run_dir: Path) -> EarlierStarts:
    """Return what the starts have taken that have left a checkpoint to go on from.

    A start that was killed has not written how long it took: its last sign of life says it.
    """
    try:
        earlier = read_result(run_dir)
        started = datetime.fromisoformat(earlier.started_at).timestamp()
    except ValueError:
        return EarlierStarts()
    if not any((run_dir / CHECKPOINTS).glob("checkpoint-*")):
        return EarlierStarts()
    last = last_stamp(run_dir) or started
    took = earlier.seconds.get("total", max(0.0, last - started))
    return EarlierStarts(
        seconds=round(earlier.seconds_before + took, 3),
        process_seconds=round(earlier.all_process_seconds(took), 3),
    )
