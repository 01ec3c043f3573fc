"""result.json and the failures of ranks: what is written reads back."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sft_app.records.failure import (
    clear_failures,
    first_failure,
    record_death,
    record_failure,
)
from sft_app.records.result import (
    Evaluation,
    LossMeasurement,
    RunError,
    RunResult,
    Status,
    TaskScore,
    read_result,
)
from sft_app.records.run_files import write_atomically


def test_a_result_reads_back_equal(tmp_path: Path) -> None:
    loss = LossMeasurement(loss=1.0, perplexity=2.718, tokens=10, examples=2)
    result = RunResult(
        status=Status.out_of_memory,
        started_at="2026-01-01T00:00:00+00:00",
        config_hash="abc",
        context_length=128,
        model="m",
        seed=1,
        evaluation_before=Evaluation(
            heldout=loss,
            by_length={"128": loss},
            tasks={"passkey": {"128": TaskScore(score=0.5, samples=4)}},
            longppl={"128": None},
        ),
        error=RunError(type="OutOfMemoryError", message="CUDA out of memory", rank=3),
    )
    result.write(tmp_path)
    assert read_result(tmp_path) == result


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"status": "running"}'])
def test_an_unreadable_result_is_a_value_error(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "result.json").write_text(text)
    with pytest.raises(ValueError, match=r"result\.json"):
        read_result(tmp_path)


def test_the_first_failure_is_the_cause(tmp_path: Path) -> None:
    assert first_failure(tmp_path) is None
    record_failure(tmp_path, ValueError("the cause"), rank=2, status=Status.failed)
    record_failure(tmp_path, ConnectionError("its echo"), rank=0, status=Status.failed)
    failure = first_failure(tmp_path)
    assert failure is not None
    assert (failure.error.type, failure.error.message, failure.error.rank) == (
        "ValueError", "the cause", 2,
    )  # fmt: skip
    record_death(tmp_path, rank=1, signum=9)
    failure = first_failure(tmp_path)
    assert failure is not None and failure.error.rank == 1, "what others lost is the cause"
    clear_failures(tmp_path)
    assert first_failure(tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_failures_that_are_half_written_block_nothing(tmp_path: Path) -> None:
    """As a full disk leaves them."""
    (tmp_path / ".failures").mkdir()
    (tmp_path / ".failures" / "rank-0.json").write_text("")
    (tmp_path / ".failures" / ".rank-1.json.partial").touch()
    assert first_failure(tmp_path) is None
    clear_failures(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_failure_is_told_where_the_runs_own_folder_cannot_be_written(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / ".failures").write_text("no folder can be made here")
    record_failure(run_dir, ValueError("the cause"), rank=0, status=Status.failed)
    failure = first_failure(run_dir)
    assert failure is not None and failure.error.message == "the cause"
    clear_failures(run_dir)
    (run_dir / ".failures").unlink()
    assert first_failure(run_dir) is None


def test_of_several_writers_at_once_one_stands_whole(tmp_path: Path) -> None:
    """As of a run that refreshes its page while sft-report writes it, too."""
    path = tmp_path / "report.html"

    def write(letter: str) -> None:
        for _ in range(50):
            write_atomically(path, 200_000 * letter)
            assert len(set(path.read_text())) == 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, "abcd"))
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
