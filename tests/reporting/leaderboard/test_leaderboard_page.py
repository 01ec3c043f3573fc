"""sft-report --leaderboard: page and JSON from the files of any sweep."""

import json
import math
from pathlib import Path

import pytest

from sft_app.records.result import TaskScore, TokenCounts, read_result
from sft_app.report import main
from sft_app.reporting.leaderboard.measured_points import trajectories
from sft_app.reporting.sweep.cells import collect_sweep
from tests.reporting.example_runs import (
    plan_of,
    write_cell,
    write_failed_cell,
    write_run,
    write_sweep,
)

pytest.importorskip("scipy", reason="the extra leaderboard is not installed")


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Three methods at two lengths with three seeds, and a cell that ran out of memory."""
    write_sweep(tmp_path, lengths=(8192, 16384), seeds=(1, 2, 3))
    for cell in tmp_path.iterdir():
        result = read_result(cell)
        for evaluation in (result.evaluation_before, result.evaluation_after):
            assert evaluation is not None
            evaluation.tasks = {
                "passkey": {str(n): TaskScore(score=0.5, samples=4) for n in (2048, 8192, 16384)}
            }
        result.write(cell)
        write_run(cell, plan=plan_of())
    write_failed_cell(tmp_path / "oom", length=65536)
    return tmp_path


def test_page_and_data_have_every_method_claim_and_failed_cell(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--leaderboard", str(sweep)]) == 0
    assert "leaderboard.html" in capsys.readouterr().out
    data = json.loads((sweep / "leaderboard.json").read_text())
    assert [board["context_length"] for board in data["boards"]] == [8192, 16384]
    first = data["boards"][0]["standings"]
    assert [s["method"] for s in first] == ["yarn", "linear", "none"]
    assert first[0]["loss_tuned"]["count"] == 3
    assert first[2]["differs_from_best"] is True
    assert {claim["verdict"] for claim in data["claims"]} <= {
        "agrees", "does not agree", "cannot be told",
    }  # fmt: skip
    page = (sweep / "leaderboard.html").read_text()
    for said in ("2309.00071", "2306.15595", "2409.12181", "2405.14591", "oom", "Holm"):
        assert said in page
    assert "differ by more than the spread over seeds" in page


def test_budgets_of_a_cell_are_points_of_one_way_and_their_seconds_add_up(tmp_path: Path) -> None:
    """Tokens and their rate are of the whole way, wherever the sweep's folder lies by now."""
    small = write_cell(tmp_path / "small", method="yarn", max_steps=10)
    large = write_cell(tmp_path / "large", method="yarn", max_steps=30)
    for cell, tokens, begun in ((small, 1000, None), (large, 3000, small)):
        result = read_result(cell)
        result.tokens = TokenCounts(total=tokens)
        result.seconds["train"] = 20.0 if begun else 10.0
        result.tokens_per_second = 100.0
        result.resumed_from = "/elsewhere/small/checkpoints/checkpoint-1" if begun else None
        result.write(cell)
    (way,) = trajectories(collect_sweep(tmp_path))
    assert [point.tokens for point in way.points] == [0, 1000, 3000]
    assert [point.seconds for point in way.points] == [0.0, 10.0, 30.0]


def test_a_model_whose_window_no_plan_tells_has_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cell(tmp_path / "cell")
    assert main(["--leaderboard", str(tmp_path)]) == 0, capsys.readouterr().err
    assert "yarn" in (tmp_path / "leaderboard.html").read_text()


@pytest.mark.parametrize(
    ("rate", "said"), [(1e-4, "differ in trainer.learning_rate"), (2e-5, "are one and the same")]
)
def test_cells_that_differ_in_more_than_the_budget_are_not_taken_for_one_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rate: float, said: str
) -> None:
    write_cell(tmp_path / "one", learning_rate=2e-5)
    write_cell(tmp_path / "another", learning_rate=rate)
    assert main(["--leaderboard", str(tmp_path)]) == 1
    assert f"another and one have one method, length and seed, and {said}" in (
        capsys.readouterr().err
    )


def test_the_data_are_json_to_every_reader(tmp_path: Path) -> None:
    """RFC 8259 knows no NaN: one seed tests nothing, and a diverged cell has no loss."""
    write_sweep(tmp_path, lengths=(8192,), seeds=(1,))
    for cell in tmp_path.iterdir():
        write_run(cell, plan=plan_of())
    diverged = read_result(cell)
    assert diverged.evaluation_after is not None
    diverged.evaluation_after.by_length["8192"].loss = math.inf
    diverged.write(cell)
    assert main(["--leaderboard", str(tmp_path)]) == 0

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is no JSON")

    data = json.loads((tmp_path / "leaderboard.json").read_text(), parse_constant=refuse)
    assert {pair["p"] for pair in data["boards"][0]["loss_pairs"]} == {None}
    last = [way["points"][-1]["loss"]["8192"] for way in data["measured"]]
    assert last.count(None) == 1


def test_a_folder_without_measurements_is_refused_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_failed_cell(tmp_path / "oom")
    assert main(["--leaderboard", str(tmp_path)]) == 1
    assert "there is nothing to rank" in capsys.readouterr().err
