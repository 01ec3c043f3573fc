"""The rule that names the best cell."""

import math
from pathlib import Path

import pytest

from sft_app.records.result import Evaluation
from sft_app.reporting.sweep.cells import collect_sweep
from sft_app.reporting.sweep.rank_settings import RankedSettings, gain, rank_settings
from sft_app.reporting.sweep.seed_groups import group_seeds
from sft_app.reporting.sweep.settings_diff import differences
from tests.reporting.example_runs import (
    evaluation,
    result_of,
    write_cell,
    write_failed_cell,
    write_run,
)


def choose(sweep: Path) -> RankedSettings | None:
    cells = collect_sweep(sweep)
    return rank_settings(group_seeds(cells, differences(cells)))


def cell(
    directory: Path, after: Evaluation | None, *, method: str = "yarn", hours: float = 1.0
) -> None:
    seconds = {"total": 3600.0 * hours}
    result = result_of(method=method, before=evaluation(9.0), after=after, seconds=seconds)
    write_run(directory, result=result, config={"rope": {"method": method}, "name": directory.name})


def names(ranked: RankedSettings | None) -> list[str]:
    return [setting.cells[0].name for setting in ranked.settings] if ranked else []


def test_the_lowest_perplexity_at_the_common_lengths_wins(tmp_path: Path) -> None:
    cell(tmp_path / "far", evaluation(2.0, {512: 2.0, 1024: 1.0, 2048: 3.0}))
    cell(tmp_path / "near", evaluation(1.0, {512: 1.0, 1024: 2.0}))
    ranked = choose(tmp_path)
    assert ranked is not None
    assert (ranked.length, names(ranked)) == (1024, ["far", "near"])
    assert "at 1,024 tokens, the longest evaluation length that all completed" in ranked.rule


def test_ties_go_to_the_heldout_loss_and_then_to_the_cost(tmp_path: Path) -> None:
    cell(tmp_path / "dear", evaluation(1.5, {1024: 2.0}), hours=3)
    cell(tmp_path / "cheap", evaluation(1.5, {1024: 2.0}), hours=1)
    cell(tmp_path / "lower", evaluation(1.4, {1024: 2.0}), hours=9)
    assert names(choose(tmp_path)) == ["lower", "cheap", "dear"]


def test_without_a_common_length_the_heldout_loss_decides(tmp_path: Path) -> None:
    cell(tmp_path / "a", evaluation(1.5, {1024: 1.0}))
    cell(tmp_path / "b", evaluation(1.4, {2048: 1.0}))
    ranked = choose(tmp_path)
    assert ranked is not None
    assert (ranked.length, names(ranked)) == (None, ["b", "a"])
    assert gain(ranked) == "1.4000 (before training: 9.0000)"


def test_cells_that_did_not_complete_neither_win_nor_limit_the_length(tmp_path: Path) -> None:
    cell(tmp_path / "a", evaluation(1.5, {1024: 2.0}))
    write_failed_cell(tmp_path / "b")
    ranked = choose(tmp_path)
    assert ranked is not None
    assert (ranked.length, names(ranked)) == (1024, ["a"])


def test_a_loss_that_is_not_finite_never_wins(tmp_path: Path) -> None:
    cell(tmp_path / "diverged", evaluation(math.nan, {1024: math.nan}))
    cell(tmp_path / "fine", evaluation(3.0, {1024: 3.0}))
    assert names(choose(tmp_path)) == ["fine"]


def test_there_is_no_best_cell_without_an_evaluation(tmp_path: Path) -> None:
    cell(tmp_path / "a", None)
    write_failed_cell(tmp_path / "b")
    assert choose(tmp_path) is None


def test_seeds_count_by_their_mean_and_a_lucky_one_does_not_win(tmp_path: Path) -> None:
    for seed, bonus in ((1, 0.0), (2, 0.5)):  # mean 0.25, and one very good
        write_cell(tmp_path / f"lucky-{seed}", method="linear", seed=seed, bonus=bonus)
        write_cell(tmp_path / f"steady-{seed}", method="yarn", seed=seed, bonus=0.4)
    ranked = choose(tmp_path)
    assert ranked is not None
    assert ranked.best.variant == "yarn"
    assert "Several seeds of a setting count by their mean;" in ranked.rule


def test_a_difference_smaller_than_the_spread_of_seeds_is_said(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        write_cell(tmp_path / f"a-{seed}", method="abf", seed=seed, bonus=0.1 * seed)
        write_cell(tmp_path / f"b-{seed}", method="ntk", seed=seed, bonus=0.1 * seed - 0.06)
    ranked = choose(tmp_path)
    assert ranked is not None
    assert [setting.variant for setting in ranked.tied] == ["abf", "ntk"]


def test_on_one_seed_less_than_a_hundredth_is_a_tie(tmp_path: Path) -> None:
    for name, loss in (("a", 2.0), ("close", 2.0 + 0.009), ("far", 2.0 + 0.011)):
        cell(tmp_path / name, evaluation(2.5, {1024: loss}), method=name)
    ranked = choose(tmp_path)
    assert ranked is not None
    assert [setting.variant for setting in ranked.tied] == ["a", "close"]
    assert ranked.distance(ranked.settings[2]) == pytest.approx(math.expm1(0.011))
    assert "below 1% is a tie" in ranked.rule
