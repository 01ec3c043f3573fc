"""Run one child process to its end: signals reach it, and nothing it started outlives it."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import FrameType

from sft_app.common.processes import die_with_parent

POLL_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How the child ended: its exit code (negative: killed by that signal), and the signal that
    this process received meanwhile and passed on, if any."""

    exit_code: int
    interrupted_by: signal.Signals | None


def run_supervised(
    command: Sequence[str], environment: Mapping[str, str], *, grace_seconds: float
) -> Ended:
    """Start `command` in a session of its own and wait for it.

    SIGINT and SIGTERM are passed on as SIGTERM; a child that has not ended `grace_seconds` later,
    or a second signal, is answered with SIGKILL to the whole session. The handlers that stood
    before are put back.
    """
    received: list[signal.Signals] = []

    def note(signum: int, frame: FrameType | None) -> None:
        received.append(signal.Signals(signum))

    handled = (signal.SIGINT, signal.SIGTERM)
    previous = {signum: signal.signal(signum, note) for signum in handled}
    try:
        child = subprocess.Popen(
            command, env=dict(environment), start_new_session=True, preexec_fn=die_with_parent
        )
        exit_code = _wait(child, received, grace_seconds)
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
    return Ended(exit_code=exit_code, interrupted_by=received[0] if received else None)


def _wait(
    child: subprocess.Popen[bytes], received: list[signal.Signals], grace_seconds: float
) -> int:
    deadline: float | None = None
    try:
        while True:
            try:
                return child.wait(timeout=POLL_SECONDS)
            except subprocess.TimeoutExpired:
                pass
            if received and deadline is None:
                deadline = time.monotonic() + grace_seconds
                _signal_session(child.pid, signal.SIGTERM)
            if deadline is not None and (time.monotonic() > deadline or len(received) > 1):
                _signal_session(child.pid, signal.SIGKILL)
    finally:
        _signal_session(child.pid, signal.SIGKILL)  # what the child itself left running


def _signal_session(session: int, signum: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # nobody is left
        os.killpg(session, signum)
