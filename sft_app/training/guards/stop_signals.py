"""Signals that ask a run to end: noticed between two steps while it trains, at once otherwise."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ASK_TO_END = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""What schedulers and the parent send; SIGINT reaches the parent alone, which passes it on."""


class Interrupted(Exception):
    """Says that a signal ended training, after a checkpoint where checkpoints are written."""

    def __init__(self, signum: int, step: int) -> None:
        """Hold the signal, and the last step that was taken."""
        super().__init__(f"ended by {signal.Signals(signum).name} after step {step}")
        self.exit_code = 128 + signum


class StopSignals:
    """Notes the first signal that asks this rank to end; all ranks agree on it in the step."""

    def __init__(self) -> None:
        """Note nothing yet: signals have their usual effect outside of `noticed`."""
        self.received = 0
        """Its number; 0: none."""

    @contextmanager
    def noticed(self) -> Iterator[None]:
        """Note signals instead of dying of them; what stood before is put back at the end."""
        previous = {signum: signal.signal(signum, self._note) for signum in ASK_TO_END}
        try:
            yield
        finally:
            for signum, handler in previous.items():
                signal.signal(signum, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.received = self.received or signum


class IgnoringSigterm:
    """Lets a process that reads rows outlive a signal to all; it ends with its rank."""

    def __init__(self, start: Callable[[int], None] | None) -> None:
        """Call `start`, what such a process begins with anyway, first."""
        self.start = start

    def __call__(self, worker_id: int) -> None:
        """Begin one such process."""
        if self.start is not None:
            self.start(worker_id)
        for signum in ASK_TO_END:
            signal.signal(signum, signal.SIG_IGN)
