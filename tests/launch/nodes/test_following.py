"""A node whose processes still wait when node 0 has ended, or died, does not wait with them."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sft_app.launch.job.supervise import run_supervised
from sft_app.launch.nodes.following import Following
from sft_app.records.liveness import remove_stamp, stamp

WAITS = [sys.executable, "-c", "import time; time.sleep(600)"]
"""As a process does that hangs in a collective."""


@contextmanager
def stamping(run_dir: Path, seconds: float) -> Iterator[None]:
    """Node 0, alive for so long."""

    def live() -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            stamp(run_dir)
            time.sleep(0.2)

    thread = threading.Thread(target=live)
    thread.start()
    try:
        yield
    finally:
        thread.join()


@pytest.mark.parametrize("concludes", [True, False])
def test_processes_that_wait_for_a_node_that_is_gone_are_ended(
    tmp_path: Path, concludes: bool
) -> None:
    following = Following(tmp_path, to_end=1, until_dead=2)
    began = time.monotonic()
    with stamping(tmp_path, 3):
        if concludes:
            threading.Timer(3.5, remove_stamp, [tmp_path]).start()
        ended = run_supervised(WAITS, {}, grace_seconds=1, look=following.look)
    assert ended.gave_up
    assert 3 < time.monotonic() - began < 15
    said = "has ended the job 1 seconds ago" if concludes else "no sign of life for 2 seconds"
    assert said in following.sentence()


def test_a_job_that_has_not_begun_yet_is_waited_for(tmp_path: Path) -> None:
    """Nodes meet, and load, before node 0 stamps its folder."""
    following = Following(tmp_path, to_end=0.1, until_dead=0.1)
    assert following.look()
    time.sleep(0.3)
    assert following.look()


def test_processes_that_end_by_themselves_are_no_loss(tmp_path: Path) -> None:
    following = Following(tmp_path, to_end=1, until_dead=1)
    stamp(tmp_path)
    quick = [sys.executable, "-c", "raise SystemExit(3)"]
    ended = run_supervised(quick, {}, grace_seconds=1, look=following.look)
    assert (ended.exit_code, ended.gave_up) == (3, False)
