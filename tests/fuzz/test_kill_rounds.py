"""A round of `make fuzz`: whenever a run is killed, it ends as if nobody had touched it."""

from pathlib import Path

import pytest

from tests.programs import run_program


@pytest.mark.slow
def test_killed_runs_end_like_the_undisturbed_one(tmp_path: Path, tiny_model: Path) -> None:
    output = run_program(
        "-m", "tests.fuzz.kill_rounds", str(tmp_path), "--rounds", "1", "--most-kills", "3",
        f"model.name_or_path={tiny_model}", "trainer.max_steps=6",
    )  # fmt: skip
    assert "1 of 1 rounds equal" in output


@pytest.mark.slow
@pytest.mark.parametrize("sharing", ["ddp", "fsdp"])
def test_ranks_that_are_killed_end_like_undisturbed_ones(tmp_path: Path, sharing: str) -> None:
    output = run_program(
        "-m", "tests.fuzz.kill_rounds", str(tmp_path), "--rounds", "5", "--ranks", "2",
        f"trainer.parallelism={sharing}", timeout=1500,
    )  # fmt: skip
    assert "5 of 5 rounds equal" in output
