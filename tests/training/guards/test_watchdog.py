"""What takes too long leaves the stack of its rank, and what does not leaves nothing."""

import time
from pathlib import Path

from sft_app.training.guards.watchdog import expected_within


def test_the_stack_says_what_is_being_waited_for(tmp_path: Path) -> None:
    def wait_for_the_disk(stack: Path) -> None:
        latest = time.monotonic() + 60
        while "wait_for_the_disk" not in stack.read_text() and time.monotonic() < latest:
            time.sleep(0.01)

    with expected_within(0.05, tmp_path, rank=3):
        wait_for_the_disk(tmp_path / "stacks/rank-3.txt")
    assert "wait_for_the_disk" in (tmp_path / "stacks/rank-3.txt").read_text()


def test_what_ends_in_time_leaves_nothing(tmp_path: Path) -> None:
    with expected_within(600, tmp_path, rank=0):
        assert (tmp_path / "stacks/rank-0.txt").exists()
    with expected_within(0, tmp_path, rank=1):
        assert not list((tmp_path / "stacks").iterdir())
