"""Run one child process to its end: signals reach it, and nothing it started outlives it."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

from sft_app.common.processes import die_with_parent

POLL_SECONDS = 0.1
LOOK_SECONDS = 1.0

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""The child is sent SIGTERM for each of them."""
IMPATIENT = (signal.SIGINT, signal.SIGTERM)
"""A second one of these, a while after the first, ends the child at once."""
PATIENCE_SECONDS = 1.0

Handler = Callable[[int, FrameType | None], Any]


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How the child ended."""

    exit_code: int
    """Negative: killed by that signal."""
    interrupted_by: signal.Signals | None = None
    """The signal that this process received meanwhile and passed on, if any."""
    handler_before: Handler | None = None
    """Who would have handled that signal, had it not been passed on."""
    gave_up: bool = False
    """Whether `look` has asked to end it."""


def run_supervised(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    grace_seconds: float,
    look: Callable[[], bool] = lambda: True,
) -> Ended:
    """Start `command` in a session of its own and wait for it.

    Signals are passed on as SIGTERM; a child that has not ended `grace_seconds` later, or a second
    signal, is answered with SIGKILL to the whole session. The handlers that stood before are put
    back. `look` is called about once a second; the child is killed when it returns False.
    """
    received: list[tuple[float, signal.Signals]] = []

    def note(signum: int, frame: FrameType | None) -> None:
        received.append((time.monotonic(), signal.Signals(signum)))

    # What is ignored stays so: SIGINT of a job in the background, SIGHUP below nohup.
    handled = [s for s in PASSED_ON if signal.getsignal(s) is not signal.SIG_IGN]
    previous = {signum: signal.signal(signum, note) for signum in handled}
    try:
        child = subprocess.Popen(
            command, env=dict(environment), start_new_session=True, preexec_fn=_begin_child
        )
        exit_code, gave_up = _wait(child, received, grace_seconds, look)
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
    if not received:
        return Ended(exit_code=exit_code, gave_up=gave_up)
    first = received[0][1]
    before = previous[first]
    return Ended(
        exit_code=exit_code,
        interrupted_by=first,
        handler_before=before if callable(before) else None,
    )


def _begin_child() -> None:
    die_with_parent()
    for signum in PASSED_ON:  # a parent that ignores one must not have children that do
        signal.signal(signum, signal.SIG_DFL)


def _wait(
    child: subprocess.Popen[bytes],
    received: list[tuple[float, signal.Signals]],
    grace_seconds: float,
    look: Callable[[], bool],
) -> tuple[int, bool]:
    deadline: float | None = None
    next_look = 0.0
    gave_up = False
    try:
        while True:
            try:
                return child.wait(timeout=POLL_SECONDS), gave_up
            except subprocess.TimeoutExpired:
                pass
            now = time.monotonic()
            if received and deadline is None:
                deadline = now + grace_seconds
                _say_goodbye(received[0][1])
                child.terminate()  # it alone: processes that read its data must outlive the step
            if deadline is not None and (now > deadline or _is_impatient(received)):
                _kill_session(child.pid)
            if now >= next_look:
                next_look = now + LOOK_SECONDS
                if not gave_up and not look():
                    gave_up = True
                    _kill_session(child.pid)
    finally:
        _kill_session(child.pid)  # what the child itself left running


def _say_goodbye(signum: signal.Signals) -> None:
    print(
        f"\nsft-train: {signum.name}: training ends after this step, with a checkpoint where it "
        "writes any; a second signal ends it at once.",
        file=sys.stderr,
        flush=True,
    )


def _is_impatient(received: list[tuple[float, signal.Signals]]) -> bool:
    first = received[0][0]
    return any(s in IMPATIENT and at > first + PATIENCE_SECONDS for at, s in received[1:])


def _kill_session(session: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # nobody is left
        os.killpg(session, signal.SIGKILL)
