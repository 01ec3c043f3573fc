"""The rule that names the best cell."""

import math
from pathlib import Path

import pytest

from sft_app.config.schema.sweep import BestBy
from sft_app.records.result import Evaluation, TaskScore
from sft_app.reporting.sweep.answer_table import answers
from sft_app.reporting.sweep.cells import collect_sweep
from sft_app.reporting.sweep.rank_settings import (
    RankedSettings,
    asked_best_by,
    gain,
    rank_settings,
)
from sft_app.reporting.sweep.seed_groups import group_seeds
from sft_app.reporting.sweep.settings_diff import differences
from tests.reporting.example_runs import (
    evaluation,
    result_of,
    write_cell,
    write_failed_cell,
    write_run,
)


def choose(sweep: Path, best_by: BestBy = BestBy.perplexity) -> RankedSettings | None:
    cells = collect_sweep(sweep)
    return rank_settings(group_seeds(cells, differences(cells)), best_by=best_by)


def scored(heldout: float, *scores: float, effective: int | None) -> Evaluation:
    """Mean scores at 1,024, 2,048 (the trained length) and 4,096 tokens."""
    found = evaluation(heldout, {1024: heldout})
    found.tasks["passkey"] = {
        str(length): TaskScore(score=score, samples=10)
        for length, score in zip((1024, 2048, 4096), scores, strict=True)
    }
    found.effective_length = {"nolima_85": effective, "ruler_85.6": None}
    return found


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
    assert (ranked.criterion.length, names(ranked)) == (1024, ["far", "near"])
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
    assert (ranked.criterion.length, names(ranked)) == (None, ["b", "a"])
    assert gain(ranked) == "1.4000 (before training: 9.0000)"


def test_cells_that_did_not_complete_neither_win_nor_limit_the_length(tmp_path: Path) -> None:
    cell(tmp_path / "a", evaluation(1.5, {1024: 2.0}))
    write_failed_cell(tmp_path / "b")
    ranked = choose(tmp_path)
    assert ranked is not None
    assert (ranked.criterion.length, names(ranked)) == (1024, ["a"])


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


def test_the_longest_effective_length_wins_where_it_is_asked_for(tmp_path: Path) -> None:
    """Against the perplexity; equal ones are a tie, in the order of their losses."""
    cell(tmp_path / "fluent", scored(1.0, 1.0, 0.2, 0.1, effective=1024), method="ntk")
    cell(tmp_path / "far", scored(2.0, 1.0, 1.0, 0.9, effective=4096), method="yarn")
    cell(tmp_path / "same", scored(1.9, 0.9, 0.9, 0.9, effective=4096), method="abf")
    cell(tmp_path / "deaf", scored(0.5, 0.0, 0.0, 0.0, effective=None), method="none")
    cell(tmp_path / "unasked", evaluation(0.1, {1024: 0.1}), method="linear")
    assert names(choose(tmp_path))[0] == "unasked"
    ranked = choose(tmp_path, BestBy.effective_length)
    assert ranked is not None
    assert names(ranked) == ["same", "far", "fluent", "deaf"]
    assert [setting.variant for setting in ranked.tied] == ["abf", "yarn"]
    assert gain(ranked) == "4,096 tokens"
    assert "longest length with at least 85%" in ranked.rule
    cells = collect_sweep(tmp_path)
    settings = group_seeds(cells, differences(cells))
    (found,) = answers(settings, BestBy.effective_length)
    assert (found.verdict, found.next_best) == ("tie: abf, yarn", "ntk, 3,072 tokens less")


def test_the_smallest_cliff_wins_but_not_of_a_model_that_answers_nothing(tmp_path: Path) -> None:
    cell(tmp_path / "steep", scored(1.0, 1.0, 1.0, 0.1, effective=2048), method="ntk")
    cell(tmp_path / "flat", scored(2.0, 1.0, 0.8, 0.7, effective=1024), method="yarn")
    cell(tmp_path / "deaf", scored(0.5, 0.0, 0.0, 0.0, effective=None), method="none")
    ranked = choose(tmp_path, BestBy.cliff)
    assert ranked is not None
    assert names(ranked) == ["flat", "steep"]
    assert gain(ranked) == "-10 points"
    assert ranked.distance(ranked.settings[1]) == pytest.approx(0.8)


def test_seeds_that_agree_on_the_effective_length_are_a_tie(tmp_path: Path) -> None:
    for seed in (1, 2):
        for method in ("ntk", "yarn"):
            after = scored(1.0, 1.0, 1.0, 0.1, effective=2048)
            result = result_of(method=method, seed=seed, after=after)
            config = {"rope": {"method": method}, "seed": seed}
            write_run(tmp_path / f"{method}-{seed}", result=result, config=config)
    ranked = choose(tmp_path, BestBy.effective_length)
    assert ranked is not None and len(ranked.tied) == 2


def test_the_sweep_says_by_what_it_is_ranked(tmp_path: Path) -> None:
    """As it was last started; completed cells keep what they were started with."""
    write_run(tmp_path / "a", result=result_of(), config={"sweep": {"best_by": "cliff"}})
    cells = collect_sweep(tmp_path)
    assert asked_best_by(tmp_path, cells) is BestBy.cliff
    (tmp_path / "multirun.yaml").write_text("sweep: {best_by: effective_length}")
    assert asked_best_by(tmp_path, cells) is BestBy.effective_length
    (tmp_path / "multirun.yaml").write_text("sweep: [")
    assert asked_best_by(tmp_path, []) is BestBy.perplexity


def test_a_small_difference_that_no_seed_changes_is_a_tie(tmp_path: Path) -> None:
    """Of 100 answers 50 and 51 are right, twice each: a third seed may say the reverse."""
    for method, fallen in (("yarn", 0.51), ("linear", 0.50)):
        for seed in (1, 2):
            result = result_of(
                method=method, seed=seed, after=scored(1.5, 1.0, 1.0, fallen, effective=2048)
            )
            config = {"rope": {"method": method}, "seed": seed, "context_length": 2048}
            write_run(tmp_path / f"{method}-{seed}", result=result, config=config)
    ranked = choose(tmp_path, BestBy.cliff)
    assert ranked is not None and len(ranked.tied) == 2
