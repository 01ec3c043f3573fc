"""What a user means who points sft-report at a directory."""

import os
from pathlib import Path

import pytest

from sft_app.records.run_files import CONFIG
from sft_app.reporting.run.find_runs import find
from tests.reporting.example_runs import config_of, write_run


def job(directory: Path, age: int = 0) -> Path:
    """A run that was last written `age` seconds before the others."""
    write_run(directory, config=config_of())
    os.utime(directory / CONFIG, (2_000_000_000 - age, 2_000_000_000 - age))
    return directory


def test_a_run_is_a_run(tmp_path: Path) -> None:
    found = find(job(tmp_path / "run"))
    assert found is not None
    assert (found.directory, found.is_sweep) == (tmp_path / "run", False)


def test_nothing_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert find(tmp_path) is None


def test_the_root_of_a_configuration_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / CONFIG).write_text("# root\ndefaults:\n  - model: smollm2\n")
    assert find(tmp_path / "conf") is None
    assert find(tmp_path) is None


def test_any_folder_of_runs_is_a_sweep(tmp_path: Path) -> None:
    job(tmp_path / "one")
    job(tmp_path / "two")
    found = find(tmp_path)
    assert found is not None
    assert (found.directory, found.is_sweep, found.chosen_from) == (tmp_path, True, 1)


@pytest.mark.parametrize("where", ["sweeps/lengths", "multirun/2026-11-21/10-00-00"])
def test_a_sweep_is_one_even_when_a_value_with_a_slash_made_subfolders(
    tmp_path: Path, where: str
) -> None:
    job(tmp_path / where / "model-org" / "name_seed-1")
    job(tmp_path / where / "model-org" / "name_seed-2")
    found = find(tmp_path / where)
    assert found is not None
    assert (found.directory, found.is_sweep) == (tmp_path / where, True)


def test_of_outputs_it_is_the_newest_run(tmp_path: Path) -> None:
    job(tmp_path / "2026-11-20" / "10-00-00", age=50)
    newest = job(tmp_path / "2026-11-21" / "09-00-00", age=10)
    job(tmp_path / "sweeps" / "lengths" / "one", age=30)
    found = find(tmp_path)
    assert found is not None
    assert (found.directory, found.is_sweep, found.chosen_from) == (newest, False, 3)


def test_of_outputs_it_is_the_newest_sweep_with_all_its_jobs(tmp_path: Path) -> None:
    job(tmp_path / "2026-11-21" / "09-00-00", age=10)
    job(tmp_path / "multirun" / "2026-11-21" / "10-00-00" / "a", age=300)
    job(tmp_path / "multirun" / "2026-11-21" / "10-00-00" / "b", age=5)
    found = find(tmp_path)
    assert found is not None
    assert found.directory == tmp_path / "multirun" / "2026-11-21" / "10-00-00"
    assert found.is_sweep
    assert found.chosen_from == 2


def test_a_days_folder_is_not_a_sweep(tmp_path: Path) -> None:
    job(tmp_path / "2026-11-21" / "09-00-00", age=10)
    newest = job(tmp_path / "2026-11-21" / "10-00-00")
    found = find(tmp_path / "2026-11-21")
    assert found is not None
    assert (found.directory, found.is_sweep) == (newest, False)
