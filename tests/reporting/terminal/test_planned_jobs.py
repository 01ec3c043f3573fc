"""The table of `sft-plan --multirun`: a line a job, called by what differs."""

import io
import json

import pytest
from rich.console import Console

from sft_app.reporting.terminal.planned_jobs import JobRow, PlannedJobs, job_names

SAME = ["model.name_or_path=/a/long/path/to/model", "data.train=/some/chat.jsonl"]


def planned(*jobs: str, as_json: bool = False) -> PlannedJobs:
    plan = {
        "rope": {"method": "yarn"},
        "data": {"packing": {"rows": 12_345}},
        "memory": {"total": 24 * 2**30},
        "hardware": None,
    }
    return PlannedJobs(
        as_json=as_json, rows=[JobRow([*SAME, *job.split(" ")], plan) for job in jobs]
    )


def shown(jobs: PlannedJobs, width: int) -> list[str]:
    screen = io.StringIO()
    jobs.print_rows(Console(file=screen, width=width, highlight=False))
    return screen.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 140])
def test_a_job_is_a_line_with_the_settings_that_differ(width: int) -> None:
    lines = shown(
        planned(
            "context_length=4096 trainer.per_device_train_batch_size=1",
            "context_length=16384 trainer.per_device_train_batch_size=2",
        ),
        width,
    )
    assert len(lines) == 3
    assert lines[1].startswith("context_length=4096 per_device_train_batch_size=1")
    assert "12,345" in lines[1] and "24.00 GiB" in lines[1]
    assert "/some/chat.jsonl" not in "".join(lines)


def test_settings_of_one_name_keep_their_group() -> None:
    assert job_names([["data.seed=1", "x.seed=1"], ["data.seed=2", "x.seed=2"]]) == [
        "data.seed=1 x.seed=1",
        "data.seed=2 x.seed=2",
    ]
    assert job_names([["a=1"]]) == ["job 0"]


def test_the_json_has_the_name_and_all_overrides(capsys: pytest.CaptureFixture[str]) -> None:
    planned("rope=yarn", "rope=linear", as_json=True).print_rows()
    jobs = json.loads(capsys.readouterr().out)["jobs"]
    assert [job["job"] for job in jobs] == ["rope=yarn", "rope=linear"]
    assert jobs[0]["overrides"] == [*SAME, "rope=yarn"]
    assert jobs[1]["memory"]["total"] == 24 * 2**30
