"""A rank that hangs is noticed: the stacks of every rank are written when no step is finished.

faulthandler's own thread writes them, below Python: it works while the interpreter is stuck in a
collective, or in a library that never comes back. The parent sees the file, and ends the job.
"""

import faulthandler
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from transformers import TrainerCallback

from sft_app.records.run_files import STACKS


@contextmanager
def expected_within(seconds: float, run_dir: Path, rank: int) -> Iterator[None]:
    """Write this rank's stack to stacks/rank-N.txt when the block takes longer; 0: it may."""
    if seconds <= 0:
        yield
        return
    path = run_dir / STACKS / f"rank-{rank}.txt"
    path.parent.mkdir(exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        faulthandler.dump_traceback_later(seconds, file=file)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
    if not path.stat().st_size:
        path.unlink()


class Watchdog(TrainerCallback):
    """Expects a micro-batch, a step or a checkpoint to be finished every `timeout` seconds."""

    def __init__(self, run_dir: Path, rank: int, timeout: float) -> None:
        """Write to stacks/rank-N.txt of `run_dir`; a timeout of 0 expects nothing."""
        self.path = run_dir / STACKS / f"rank-{rank}.txt"
        self.timeout = timeout
        self._file: TextIO | None = None

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Begin to expect."""
        if self.timeout > 0:
            self.path.parent.mkdir(exist_ok=True)
            self._file = self.path.open("w", encoding="utf-8")
            self._expect()

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        """Expect nothing more, and leave no empty file."""
        if self._file is not None:
            faulthandler.cancel_dump_traceback_later()
            self._file.close()
            self._file = None
            if self.path.exists() and not self.path.stat().st_size:
                self.path.unlink()

    def _expect(self, *args: Any, **kwargs: Any) -> None:
        if self._file is not None:
            faulthandler.dump_traceback_later(self.timeout, file=self._file)

    on_step_end = on_substep_end = on_save = on_prediction_step = on_evaluate = _expect
