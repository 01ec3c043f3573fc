"""A few rounds of `make fuzz`: whenever a run is killed, it ends as if nobody had touched it."""

from pathlib import Path

from tests.programs import run_program


def test_killed_runs_end_like_the_undisturbed_one(tmp_path: Path) -> None:
    output = run_program("-m", "tests.fuzz.kill_rounds", str(tmp_path), "--rounds", "2")
    assert "2 of 2 rounds equal" in output
