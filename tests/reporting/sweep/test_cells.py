"""The jobs of a sweep, found and read while they run, fail, or have not begun."""

import os
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from sft_app.records.identity import Identity
from sft_app.records.liveness import STAMP, stamp
from sft_app.records.result import Status
from sft_app.records.run_files import RESULT
from sft_app.reporting.run.summary import total_seconds
from sft_app.reporting.sweep.cells import collect_sweep
from tests.reporting.example_runs import (
    config_of,
    metrics_of,
    result_of,
    write_cell,
    write_failed_cell,
    write_run,
    write_sweep,
)


def test_every_directory_with_a_file_of_a_run_is_a_cell_at_any_depth(tmp_path: Path) -> None:
    write_run(tmp_path / "result", result=result_of())
    write_run(tmp_path / "rope" / "yarn" / "configured", config=config_of())
    write_run(tmp_path / "deep" / "overridden", overrides=["context_length=4096", "rope=yarn"])
    (tmp_path / "empty").mkdir()
    (tmp_path / ".submitit" / "1").mkdir(parents=True)
    (tmp_path / ".submitit" / "1" / "config.yaml").write_text("no: job")
    names = {cell.name for cell in collect_sweep(tmp_path)}
    assert names == {"result", "rope/yarn/configured", "deep/overridden"}


def test_what_lies_inside_a_run_is_not_another_cell(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", result=result_of())
    write_run(run / "checkpoints" / "checkpoint-5", config=config_of())
    assert [cell.name for cell in collect_sweep(tmp_path)] == ["run"]


def test_a_job_that_wrote_only_its_overrides_still_has_its_settings(tmp_path: Path) -> None:
    overrides = ["context_length=4096", "rope=yarn", "+trainer.learning_rate=1e-5", "seed=3"]
    write_run(tmp_path / "job", overrides=overrides)
    (cell,) = collect_sweep(tmp_path)
    assert (cell.status, cell.context_length, cell.method, cell.seed) == (
        "missing",
        4096,
        "yarn",
        3,
    )
    assert cell.gpu_hours is None


def test_the_status_is_read_from_the_files(tmp_path: Path) -> None:
    write_cell(tmp_path / "a")
    write_failed_cell(tmp_path / "b")
    write_failed_cell(tmp_path / "c", status=Status.failed)
    write_run(tmp_path / "d", config=config_of(), metrics=metrics_of(3))
    write_cell(tmp_path / "e")
    (tmp_path / "e" / RESULT).write_text('{"status": "comp')
    statuses = {cell.name: cell.status for cell in collect_sweep(tmp_path)}
    assert statuses == {
        "a": "completed", "b": "out_of_memory", "c": "failed", "d": "running", "e": "unreadable",
    }  # fmt: skip


def test_cells_come_shortest_context_first(tmp_path: Path) -> None:
    cells = collect_sweep(write_sweep(tmp_path, lengths=(16384, 8192), methods=("yarn", "linear")))
    assert [(cell.context_length, cell.method) for cell in cells] == [
        (8192, "linear"), (8192, "yarn"), (16384, "linear"), (16384, "yarn"),
    ]  # fmt: skip


def test_gpu_hours_are_processes_times_wall_time_and_cost_is_their_price(tmp_path: Path) -> None:
    result = result_of(world_size=8, seconds={"train": 1800.0, "total": 3600.0})
    write_run(tmp_path / "run", result=result)
    (free,) = collect_sweep(tmp_path)
    (priced,) = collect_sweep(tmp_path, price_per_gpu_hour=2.5)
    assert (free.gpu_hours, free.cost) == (8.0, None)
    assert priced.cost == 20.0


def test_what_goes_on_with_other_processes_has_paid_for_those_before(tmp_path: Path) -> None:
    result = result_of(
        world_size=2, seconds={"total": 3600.0}, seconds_before=7200.0, process_seconds_before=57600
    )
    write_run(tmp_path / "run", result=result)
    (cell,) = collect_sweep(tmp_path)
    assert cell.gpu_hours == 2 + 16


@pytest.mark.parametrize(("seconds_ago", "status"), [(5, "running"), (999, "died")])
def test_what_was_never_concluded_has_paid_until_its_last_sign_of_life(
    tmp_path: Path, seconds_ago: int, status: str
) -> None:
    """Two hours on eight GPUs, of which the phases that ended tell 40 seconds."""
    alive = datetime.now().astimezone() - timedelta(seconds=seconds_ago)
    started = alive - timedelta(hours=2)
    result = result_of(
        status=Status.running, started_at=started.isoformat(), world_size=8,
        seconds={"start": 10.0, "load": 30.0},
    )  # fmt: skip
    run_dir = write_run(tmp_path / "run", result=result)
    stamp(run_dir)
    os.utime(run_dir / STAMP, (alive.timestamp(),) * 2)
    (cell,) = collect_sweep(tmp_path)
    assert cell.status == status
    assert cell.gpu_hours == pytest.approx(16)
    assert total_seconds(cell.run) == pytest.approx(7200)


def test_what_is_to_go_on_has_paid_for_its_earlier_starts_already(tmp_path: Path) -> None:
    """Pending again, with the stamp of the start that was killed."""
    result = result_of(
        status=Status.pending, started_at=datetime.now().astimezone().isoformat(), seconds={},
        seconds_before=3600.0, world_size=4,
    )  # fmt: skip
    run_dir = write_run(tmp_path / "run", result=result)
    stamp(run_dir)
    os.utime(run_dir / STAMP, (0, 0))
    (cell,) = collect_sweep(tmp_path)
    assert (cell.gpu_hours, total_seconds(cell.run)) == (4, None)


def test_a_cell_that_was_interrupted_has_paid_for_its_earlier_starts(tmp_path: Path) -> None:
    seconds = {"train": 1800.0, "total": 3600.0}
    write_run(tmp_path / "run", result=result_of(seconds=seconds, seconds_before=1800.0))
    (cell,) = collect_sweep(tmp_path, price_per_gpu_hour=2.0)
    assert (cell.gpu_hours, cell.cost) == (1.5, 3.0)


def test_a_shared_cell_has_the_result_of_the_same_settings_and_files_only(tmp_path: Path) -> None:
    """The cell that ran for it was run anew with another learning rate, or on other data."""
    write_cell(tmp_path / "linear", method="linear")
    shared = result_of(status=Status.shared, method="yarn", seconds={})
    shared.same_as = "linear"
    write_run(tmp_path / "yarn", result=shared, config=config_of(method="yarn"))

    def identity(method: str, rate: float, data: str) -> Identity:
        return Identity(
            settings={"rope.method": method, "trainer.learning_rate": rate},
            measured={}, rows_per_step=1, world_size=1, digests={"data.train": data}, versions={},
        )  # fmt: skip

    def status_of_yarn() -> str:
        (cell,) = (cell for cell in collect_sweep(tmp_path) if cell.name == "yarn")
        assert (cell.same_as == "linear") is (cell.heldout("after") is not None)
        return cell.status

    assert status_of_yarn() == "completed", "older cells have no identity of their own"
    identity("yarn", 1e-5, "a").write(tmp_path / "yarn")
    identity("linear", 1e-5, "a").write(tmp_path / "linear")
    assert status_of_yarn() == "completed"
    for rate, data in ((1e-3, "a"), (1e-5, "b")):
        identity("linear", rate, data).write(tmp_path / "linear")
        assert status_of_yarn() == "pending"
