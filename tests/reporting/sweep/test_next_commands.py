"""Commands that go on from a sweep repeat what was typed, and nothing that was worked out."""

import shlex
from pathlib import Path

import pytest
import yaml

from sft_app.reporting.sweep.cells import collect_sweep
from sft_app.reporting.sweep.next_commands import leaderboard_command, sweep_command
from sft_app.reporting.sweep.rank_settings import HYDRA_SWEEP
from tests.reporting.example_runs import write_sweep

TYPED = ["experiment=context_sweep", "data.train='my chat.jsonl'"]
WORKED_OUT = ["sweep.lengths=[8192,16384]", "sweep.heldout_length=8192"]


def command_after(
    directory: Path, overrides: list[str], sources: list[dict[str, str]] | None = None
) -> list[str]:
    write_sweep(directory, lengths=(8192, 16384))
    path = directory / HYDRA_SWEEP
    path.parent.mkdir(parents=True, exist_ok=True)
    hydra = {"overrides": {"task": overrides}, "runtime": {"config_sources": sources}}
    recorded = {"hydra": hydra, "sweep": {"name": directory.name}}
    path.write_text(yaml.safe_dump(recorded))
    line = sweep_command(directory, collect_sweep(directory))
    assert line is not None
    return shlex.split(line)


def test_what_the_sweep_worked_out_is_left_out(tmp_path: Path) -> None:
    words = command_after(tmp_path / "one", [*TYPED, *WORKED_OUT, "sweep.tokens_per_step=2048"])
    assert words == ["sft-train", "--multirun", *TYPED]


def test_a_leaderboard_is_made_again_from_where_the_sweep_is(tmp_path: Path) -> None:
    """A page that is published names no folder of the machine that wrote it."""
    command_after(tmp_path / "three", TYPED)
    assert leaderboard_command(tmp_path / "three") == (
        "sft-report --leaderboard outputs/sweeps/three"
    )
    unnamed = str(tmp_path / "no name")
    assert shlex.split(leaderboard_command(Path(unnamed)))[2] == unnamed


def test_what_was_typed_stays(tmp_path: Path) -> None:
    typed = [TYPED[0], "sweep.tokens_per_step=4096", TYPED[1]]
    assert command_after(tmp_path / "two", [*typed, *WORKED_OUT])[2:] == typed


def test_a_folder_of_configurations_that_was_named_is_named_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its experiments are known to nobody else; here they lie below where the command is given."""
    monkeypatch.chdir(tmp_path)
    sources = [
        {"path": "sft_app.conf", "schema": "pkg", "provider": "main"},
        {"path": str(tmp_path / "my conf"), "schema": "file", "provider": "command-line"},
    ]
    assert command_after(tmp_path / "four", TYPED, sources) == [
        "sft-train", "--multirun", "--config-dir=my conf", *TYPED
    ]  # fmt: skip
