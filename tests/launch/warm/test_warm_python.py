"""Processes forked from a warm interpreter begin and end as those of `python -m` do."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sft_app.launch.warm.warm_python import WarmPython
from tests.programs import ROOT

PROGRAM = "tests.launch.warm.forked_program"


@pytest.fixture
def warm() -> Iterator[WarmPython]:
    python = WarmPython("colorsys", {**os.environ, "PYTHONPATH": str(ROOT)})
    assert python.is_ready()
    yield python
    python.close()


def test_a_child_is_a_main_program_in_its_own_session_with_its_own_environment(
    warm: WarmPython, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    note = tmp_path / "note"
    child = warm.start(PROGRAM, [str(note), "0"], {"ONLY": "this"})
    assert child.wait(timeout=60) == 0
    said = json.loads(note.read_text())
    assert said["name"] == "__main__"
    assert said["session"] == child.pid
    assert said["directory"] == str(tmp_path)
    assert said["environment"] == {"ONLY": "this"}
    assert said["warm"], "what was imported once is imported already"


@pytest.mark.parametrize(
    ("how", "exit_code"), [("0", 0), ("3", 3), ("a sentence", 1), ("raise", 1), ("killed", -9)]
)
def test_exit_codes_are_those_of_python(
    warm: WarmPython, tmp_path: Path, how: str, exit_code: int
) -> None:
    child = warm.start(PROGRAM, [str(tmp_path / "note"), how], os.environ)
    assert child.wait(timeout=60) == exit_code
    child = warm.start(PROGRAM, [str(tmp_path / "note"), "0"], os.environ)
    assert child.wait(timeout=60) == 0, "and the next one starts"


def test_waiting_ends_in_time_and_terminate_ends_the_child(
    warm: WarmPython, tmp_path: Path
) -> None:
    child = warm.start(PROGRAM, [str(tmp_path / "note"), "sleep"], os.environ)
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(timeout=0.2)
    child.terminate()
    assert child.wait(timeout=60) == -15


def test_no_child_outlives_the_server(tmp_path: Path) -> None:
    warm = WarmPython("colorsys", {**os.environ, "PYTHONPATH": str(ROOT)})
    assert warm.is_ready()
    child = warm.start(PROGRAM, [str(tmp_path / "note"), "sleep"], os.environ)
    warm.close()
    deadline = time.monotonic() + 30
    while psutil.pid_exists(child.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not psutil.pid_exists(child.pid)


def test_a_module_that_cannot_be_imported_leaves_no_warm_interpreter(
    capfd: pytest.CaptureFixture[str],
) -> None:
    warm = WarmPython("no_such_module_anywhere", os.environ)
    assert not warm.is_ready()
    warm.close()
    assert "no_such_module_anywhere" in capfd.readouterr().err
