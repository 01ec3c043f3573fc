"""Who goes on to the next rung: by the mean over seeds, and nobody of whom a seed has failed."""

from pathlib import Path

import yaml

from sft_app.records.result import Status
from sft_app.records.run_files import CONFIG
from sft_app.reporting.halving.places import places
from tests.reporting.example_runs import write_cell, write_failed_cell


def on_rung(cell: Path, rung: int, keep_one_in: int = 3) -> None:
    config = yaml.safe_load((cell / CONFIG).read_text())
    config["sweep"] = {"rung": rung, "keep_one_in": keep_one_in}
    (cell / CONFIG).write_text(yaml.safe_dump(config))


def test_the_best_third_of_those_that_entered_goes_on(tmp_path: Path) -> None:
    methods = ("none", "linear", "yarn", "ntk", "abf", "llama3")
    for method in methods:
        for seed in (1, 2):
            cell = tmp_path / f"{method}-{seed}"
            bonus = {"yarn": 1.5, "linear": 1.4}.get(method, 0.0)
            on_rung(write_cell(cell, method=method, seed=seed, bonus=bonus), 0)
    on_rung(write_cell(tmp_path / "yarn-above", method="yarn", bonus=1.0), 1)
    found = places(tmp_path, 0)
    assert {found[f"yarn-{seed}"].rank for seed in (1, 2)} == {1}, "seeds share their place"
    assert found["none-1"].rank == 6
    assert {name for name, place in found.items() if place.goes_on} == {
        "yarn-1", "yarn-2", "linear-1", "linear-2",
    }  # fmt: skip
    assert (found["yarn-1"].entered, found["yarn-1"].kept) == (6, 2)
    assert "perplexity at" in found["yarn-1"].measured
    assert "yarn-above" not in found


def test_a_setting_of_which_a_seed_failed_has_no_place_and_counts_as_entered(
    tmp_path: Path,
) -> None:
    for method in ("linear", "yarn"):
        on_rung(write_cell(tmp_path / method, method=method, length=8192), 0)
    on_rung(write_failed_cell(tmp_path / "bad", method="ntk", length=8192), 0)
    found = places(tmp_path, 0)
    assert set(found) == {"linear", "yarn"}
    assert found["yarn"].entered == 3
    assert not found["linear"].goes_on


def test_where_nothing_was_measured_nobody_goes_on(tmp_path: Path) -> None:
    on_rung(write_failed_cell(tmp_path / "bad", status=Status.failed), 0)
    assert places(tmp_path, 0) == {}
