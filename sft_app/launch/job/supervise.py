"""Run one child process to its end: signals reach it, and nothing it started outlives it."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, Protocol

from sft_app.common.processes import RunningProcess, die_with_parent, processes_below
from sft_app.launch.warm.warm_python import WarmPython

LOOK_SECONDS = 1.0
POLL_SECONDS = 0.1
"""Where the system cannot tell by itself that a child has ended."""

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""The child is sent SIGTERM for each of them."""
IMPATIENT = (signal.SIGINT, signal.SIGTERM)
"""A second one of these, a while after the first, ends the child at once."""
PATIENCE_SECONDS = 1.0

Handler = Callable[[int, FrameType | None], Any]


class Child(Protocol):
    """A process, started by subprocess or forked from a warm interpreter."""

    @property
    def pid(self) -> int:
        """Return the process number, which is that of its session too."""

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code; raises subprocess.TimeoutExpired."""

    def terminate(self) -> None:
        """Send SIGTERM."""


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
    warm: WarmPython | None = None,
) -> Ended:
    """Start `command` in a session of its own and wait for it.

    With `warm`, `command` is `python -m MODULE ...`, and is forked from that interpreter.

    Signals are passed on as SIGTERM; a child that has not ended `grace_seconds` later, or a second
    signal, is answered with SIGKILL to the whole session and all below it. The handlers that stood
    before are put back. `look` is called about once a second; the child is killed when it returns
    False.
    """
    received: list[tuple[float, signal.Signals]] = []

    def note(signum: int, frame: FrameType | None) -> None:
        received.append((time.monotonic(), signal.Signals(signum)))

    # What is ignored stays so: SIGINT of a job in the background, SIGHUP below nohup.
    handled = [s for s in PASSED_ON if signal.getsignal(s) is not signal.SIG_IGN]
    previous = {signum: signal.signal(signum, note) for signum in handled}
    try:
        child = _start(command, environment, warm)
        with _Bell(child) as bell:
            exit_code, gave_up = _wait(child, bell, received, grace_seconds, look)
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


def _start(
    command: Sequence[str], environment: Mapping[str, str], warm: WarmPython | None
) -> Child:
    if warm is not None and warm.is_ready():
        assert list(command[:2]) == [sys.executable, "-m"], "nothing else can be forked"
        try:
            return warm.start(command[2], command[3:], environment)
        except OSError as error:
            print(f"sft-train: {error}; the job starts by itself.", file=sys.stderr, flush=True)
    return subprocess.Popen(
        command, env=dict(environment), start_new_session=True, preexec_fn=_begin_child
    )


def _begin_child() -> None:
    die_with_parent()
    for signum in PASSED_ON:  # a parent that ignores one must not have children that do
        signal.signal(signum, signal.SIG_DFL)


class _Bell:
    """Rings when the child has ended, or this process has received a signal: nothing is polled."""

    def __init__(self, child: Child) -> None:
        self._pidfd: int | None = None
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(ProcessLookupError):  # it has ended, and was waited for
                self._pidfd = os.pidfd_open(child.pid)
        self._ear, self._signals = socket.socketpair()
        for end in (self._ear, self._signals):
            end.setblocking(False)

    def __enter__(self) -> "_Bell":
        self._before = signal.set_wakeup_fd(self._signals.fileno(), warn_on_full_buffer=False)
        return self

    def __exit__(self, *exc_info: object) -> None:
        signal.set_wakeup_fd(self._before)
        self._ear.close()
        self._signals.close()
        if self._pidfd is not None:
            os.close(self._pidfd)

    def wait(self, timeout: float) -> bool:
        """Return when it rings, or after `timeout` seconds; tell whether the child has ended."""
        if self._pidfd is None:
            time.sleep(max(0.0, min(timeout, POLL_SECONDS)))
            return False
        rung, _, _ = select.select([self._pidfd, self._ear.fileno()], [], [], max(0.0, timeout))
        if self._ear.fileno() in rung:
            self._ear.recv(4096)
        return self._pidfd in rung


def _wait(
    child: Child,
    bell: _Bell,
    received: list[tuple[float, signal.Signals]],
    grace_seconds: float,
    look: Callable[[], bool],
) -> tuple[int, bool]:
    deadline: float | None = None
    next_look = 0.0
    gave_up = False
    below: set[RunningProcess] = set()
    """What the child has started: torch elastic gives each worker a session of its own."""
    try:
        while True:
            due = next_look if deadline is None else min(next_look, deadline)
            ended = bell.wait(due - time.monotonic())
            with contextlib.suppress(subprocess.TimeoutExpired):
                return child.wait(timeout=LOOK_SECONDS if ended else 0), gave_up
            now = time.monotonic()
            if received and deadline is None:
                deadline = now + grace_seconds
                _say_goodbye(received[0][1])
                child.terminate()  # it alone: processes that read its data must outlive the step
            if deadline is not None and (now > deadline or _is_impatient(received)):
                _kill_all(child.pid, below)
            if now >= next_look:
                next_look = now + LOOK_SECONDS
                below |= processes_below(child.pid)
                if not gave_up and not look():
                    gave_up = True
                    _kill_all(child.pid, below)
    finally:
        _kill_all(child.pid, below)  # what the child itself left running


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


def _kill_all(session: int, below: set[RunningProcess]) -> None:
    """End the child's session, and what it has started in others: a worker that hangs in a
    collective notices no SIGTERM of its dying parent."""
    below |= processes_below(session)
    with contextlib.suppress(ProcessLookupError, PermissionError):  # nobody is left
        os.killpg(session, signal.SIGKILL)
    for process in below:
        process.kill()
