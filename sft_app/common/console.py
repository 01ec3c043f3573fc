"""A console that may go away: `| head`, `| less` and q, a tee that dies, a closed terminal.

What is printed is a courtesy; the files of a run are the record. A closed output must not end a
process that trains.
"""

import errno
import io
import logging
import os
import sys
from collections.abc import Iterable
from typing import Any

log = logging.getLogger(__name__)

GONE = (errno.EPIPE, errno.EIO)
"""Nobody reads the pipe any more; the terminal has hung up."""


class GuardedStream:
    """Writes to a stream until its reader has gone, and from then on to nowhere."""

    def __init__(self, stream: io.TextIOBase, goes_on: str = "") -> None:
        """Guard `stream`, which may be any text file with a descriptor.

        `goes_on`: what does so without a reader, to be logged; empty: nothing worth a word.
        """
        self._stream = stream
        self.goes_on = goes_on

    def write(self, text: str) -> int:
        """Write `text`, or lose it when nobody reads any more."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._let_go(error)
            return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write every line, as `write` does."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Hand on what was written, or lose it when nobody reads any more."""
        try:
            self._stream.flush()
        except OSError as error:
            self._let_go(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _let_go(self, error: OSError) -> None:
        """Point the descriptor itself at nowhere: child processes and C libraries share it."""
        if error.errno not in GONE:
            raise error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
        if self.goes_on:
            log.warning("Nobody reads the output any more: %s.", self.goes_on)


RUN = "the run goes on, and into its log"
EVALUATION = "the evaluation goes on, and writes its files"


def guard_console(goes_on: str = "") -> None:
    """Guard this process's stdout and stderr; `goes_on`: what does, without a reader."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, GuardedStream):
            stream.goes_on = goes_on
        elif stream is not None:
            setattr(sys, name, GuardedStream(stream, goes_on))
