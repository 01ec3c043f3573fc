"""A supervised child: signals reach it, and nothing that it started outlives it."""

import os
import signal
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from sft_app.launch.job.supervise import run_supervised
from tests.programs import started

STORM = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code)]


def test_the_exit_code_is_the_childs() -> None:
    ended = run_supervised(python("raise SystemExit(7)"), os.environ, grace_seconds=5)
    assert (ended.exit_code, ended.interrupted_by) == (7, None)


def test_grandchildren_do_not_outlive_the_child(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    code = f"""
        import subprocess
        sleeper = subprocess.Popen(["sleep", "600"])
        open({str(note)!r}, "w").write(str(sleeper.pid))
    """
    run_supervised(python(code), os.environ, grace_seconds=5)
    assert ends_soon(int(note.read_text()))


@pytest.mark.parametrize("ends", ["by itself", "given up"])
def test_nor_do_those_that_hang_in_a_session_of_their_own(tmp_path: Path, ends: str) -> None:
    """As torch elastic starts its workers; in a collective they notice no SIGTERM."""
    note = tmp_path / "pid"
    hangs = f"""
        import os, signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        open({str(note)!r}, "w").write(str(os.getpid()))
        time.sleep(600)
    """
    code = f"""
        import subprocess, sys, time
        subprocess.Popen([sys.executable, "-c", {textwrap.dedent(hangs)!r}], start_new_session=True)
        time.sleep({600 if ends == "given up" else 3})
    """

    def look() -> bool:
        return ends == "by itself" or not note.exists()

    run_supervised(python(code), os.environ, grace_seconds=5, look=look)
    assert ends_soon(int(note.read_text()))


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_child_that_ignores_it(tmp_path: Path, signum: signal.Signals) -> None:
    """The parent runs in a process of its own, so that the test can signal it."""
    note = tmp_path / "pid"
    stubborn = f"""
        import os, signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        open({str(note)!r}, "w").write(str(os.getpid()))
        time.sleep(600)
    """
    command = python(f"""
        import os, sys
        from sft_app.launch.job.supervise import run_supervised
        ended = run_supervised([sys.executable, "-c", {textwrap.dedent(stubborn)!r}],
                               os.environ, grace_seconds=0.5)
        sys.exit(int(ended.interrupted_by or 0))
    """)
    with started(command) as parent:
        child = wait_for_pid(note)
        parent.send_signal(signum)
        assert parent.wait(timeout=20) == signum
        assert ends_soon(child)


def test_a_storm_of_signals_is_one_signal(tmp_path: Path) -> None:
    """Forty within the patience of a second: the child is asked once, and takes its time."""
    note = tmp_path / "pid"
    saving = f"""
        import os, signal, sys, time
        def save(*args):
            time.sleep(0.3)
            open({str(tmp_path / "asked")!r}, "a").write("saved ")
            sys.exit(143)
        signal.signal(signal.SIGTERM, save)
        open({str(note)!r}, "w").write(str(os.getpid()))
        time.sleep(600)
    """
    command = python(f"""
        import os, sys
        from sft_app.launch.job.supervise import run_supervised
        ended = run_supervised([sys.executable, "-c", {textwrap.dedent(saving)!r}],
                               os.environ, grace_seconds=20)
        sys.exit(0 if ended.exit_code == 143 else 1)
    """)
    with started(command) as parent:
        child = wait_for_pid(note)
        for number in range(40):
            parent.send_signal(STORM[number % len(STORM)])
        assert parent.wait(timeout=20) == 0
        assert (tmp_path / "asked").read_text() == "saved "
        assert ends_soon(child)


def test_a_killed_parent_takes_the_child_with_it(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    child_code = f"""
        import os, time
        open({str(note)!r}, "w").write(str(os.getpid()))
        time.sleep(600)
    """
    command = python(f"""
        import os, sys
        from sft_app.launch.job.supervise import run_supervised
        run_supervised([sys.executable, "-c", {textwrap.dedent(child_code)!r}],
                       os.environ, grace_seconds=5)
    """)
    with started(command) as parent:
        child = wait_for_pid(note)
        parent.kill()
        parent.wait()
        assert ends_soon(child)


def wait_for_pid(note: Path, timeout: float = 30) -> int:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if note.exists() and note.read_text():
            return int(note.read_text())
        time.sleep(0.05)
    raise AssertionError("the child did not start")


def ends_soon(pid: int, timeout: float = 20) -> bool:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False
