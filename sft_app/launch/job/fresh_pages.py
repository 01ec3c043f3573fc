"""Pages that keep up with what they show, at next to no cost: the parent rewrites them."""

import contextlib
import time
from collections.abc import Callable

SECONDS_BETWEEN = 30.0
"""As often as a page of something that goes on reloads itself."""
LARGEST_SHARE = 0.01
"""Of a core's time: the page of a sweep of hundreds of jobs is written less often."""


class FreshPage:
    """Writes a page when it is due; that it cannot be written is told at the end of the run."""

    def __init__(self, write: Callable[[], object]) -> None:
        """Take what writes the page."""
        self._write = write
        self._due = float("-inf")

    def refresh(self) -> None:
        """Write the page, unless it was written a moment ago."""
        started = time.monotonic()
        if started < self._due:
            return
        with contextlib.suppress(Exception):  # a full disk, a file that is being written
            self._write()
        ended = time.monotonic()
        self._due = ended + max(SECONDS_BETWEEN, (ended - started) / LARGEST_SHARE)
