"""Start `python -m MODULE` from a warm interpreter: the near end of `fork_server.py`."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from sft_app.common.processes import die_with_parent
from sft_app.launch.warm.fork_server import MESSAGE_BYTES, READY


class ForkedProcess:
    """A process that the server has forked, with as much of subprocess.Popen as is needed."""

    def __init__(self, pid: int, connection: socket.socket) -> None:
        """Hold the process number, and the socket on which the server will tell its exit code."""
        self.pid = pid
        self._connection = connection
        self._returncode: int | None = None

    def terminate(self) -> None:
        """Send SIGTERM to the process; nothing happens when it has ended."""
        if self._returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code (negative: killed by that signal) when the process has ended.

        Raises subprocess.TimeoutExpired when it goes on for longer than `timeout` seconds.
        """
        if self._returncode is None:
            self._connection.settimeout(timeout)
            try:
                message = self._connection.recv(MESSAGE_BYTES)
            except (TimeoutError, BlockingIOError) as error:
                raise subprocess.TimeoutExpired("a forked process", timeout or 0) from error
            # A server that is gone has taken its children along.
            self._returncode = json.loads(message)["exit_code"] if message else -9
        return self._returncode


class WarmPython:
    """One fork server; `start` is its service, `close` its end.

    One process at a time: the next is started when the one before has ended.
    """

    def __init__(
        self, preload: str, environment: Mapping[str, str], *, without: Sequence[str] = ()
    ) -> None:
        """Start importing `preload` in the background, as if the packages `without` were missing.

        `environment` is what the libraries read while they are imported.
        """
        self._connection, far_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with far_end:
            self._server = subprocess.Popen(
                [
                    sys.executable, "-m", "sft_app.launch.warm.fork_server",
                    "--socket", str(far_end.fileno()), "--preload", preload, "--without", *without,
                ],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                pass_fds=[far_end.fileno()],
                preexec_fn=die_with_parent,
            )  # fmt: skip
        self._ready: bool | None = None

    def is_ready(self) -> bool:
        """Wait for the imports; tell whether processes can be forked (else: start them cold)."""
        if self._ready is None:
            self._connection.settimeout(None)
            message = self._connection.recv(MESSAGE_BYTES)
            self._ready = bool(message) and json.loads(message)[READY]
        return self._ready

    def start(
        self,
        module: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        *,
        output: Path | None = None,
    ) -> ForkedProcess:
        """Start `python -m module arguments` in a session of its own, in this directory.

        `output`: a file that takes what it prints, errors too; None: what this process has.
        Raises OSError when the server has ended.
        """
        assert self.is_ready(), "ask is_ready first"
        request = {
            "module": module,
            "arguments": list(arguments),
            "environment": dict(environment),
            "directory": str(Path.cwd()),
            "output": None if output is None else str(output),
        }
        self._connection.settimeout(None)
        self._connection.send(json.dumps(request).encode())
        message = self._connection.recv(MESSAGE_BYTES)
        if not message:
            self._ready = False
            raise ConnectionResetError("the warm interpreter has ended")
        return ForkedProcess(json.loads(message)["pid"], self._connection)

    def close(self) -> None:
        """End the server, and with it what it has started."""
        self._connection.close()
        self._server.wait()
