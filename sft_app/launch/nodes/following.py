"""Whether node 0 still runs the job that this node has lent its processes to.

A process that waits for a lost peer may wait for hours: a collective has its own idea of time, and
one that hangs elsewhere none at all. So a node looks at the stamp that node 0 renews in the folder
that all of them see, and removes when it has concluded.
"""

import time
from pathlib import Path

from sft_app.records.liveness import SECONDS_UNTIL_DEAD, last_stamp

SECONDS_TO_END = 60.0
"""From node 0's conclusion to the end of this node's processes: theirs may come a little later."""


class Following:
    """Asked about once a second; its own clock alone counts, for nodes disagree about the time."""

    def __init__(
        self,
        run_dir: Path,
        *,
        to_end: float = SECONDS_TO_END,
        until_dead: float = SECONDS_UNTIL_DEAD,
    ) -> None:
        """Follow the job in `run_dir`, which may not have begun; limits in seconds."""
        self.run_dir = run_dir
        self._to_end, self._until_dead = to_end, until_dead
        self._stamp: float | None = None
        self._since = time.monotonic()
        self._has_begun = False

    def look(self) -> bool:
        """Tell whether this node's processes may go on."""
        stamp = last_stamp(self.run_dir)
        if stamp != self._stamp:
            self._stamp, self._since = stamp, time.monotonic()
        self._has_begun |= stamp is not None
        limit = self._to_end if stamp is None else self._until_dead
        return not self._has_begun or time.monotonic() - self._since <= limit

    def sentence(self) -> str:
        """Say why they may not."""
        if self._stamp is None:
            return f"node 0 has ended the job {self._to_end:g} seconds ago"
        return f"node 0 has given no sign of life for {self._until_dead:g} seconds"
