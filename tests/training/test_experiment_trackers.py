"""What trackers are told of a run: project, name and group, and how it ended."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sft_app.records.run_files import JOB_LABEL
from sft_app.training.experiment_trackers import TrackedRun, name_tracked_run, tracked_run
from tests.programs import ROOT


@pytest.mark.parametrize(
    ("folder", "in_sweep", "name", "group"),
    [
        ("outputs/runs/vicuna_1", False, "vicuna_1", None),
        ("outputs/2026-11-26/10-20-30", False, "2026-11-26_10-20-30", None),
        ("outputs/sweeps/long/rope-yarn_seed-1", True, "rope-yarn_seed-1", "long"),
        ("outputs/multirun/2026-11-26/10-20-30/seed-1", True, "seed-1", "2026-11-26_10-20-30"),
    ],
)
def test_a_run_is_called_as_its_folder_and_grouped_by_its_sweep(
    folder: str, in_sweep: bool, name: str, group: str | None
) -> None:
    assert tracked_run(Path(folder), is_job_of_sweep=in_sweep) == TrackedRun(name=name, group=group)


def test_what_the_environment_says_already_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {JOB_LABEL: "[1/2]", "WANDB_PROJECT": "mine"})
    assert name_tracked_run(tmp_path / "long/seed-1", ["wandb", "mlflow"]) == "seed-1"
    assert os.environ["WANDB_PROJECT"] == "mine"
    assert os.environ["WANDB_RUN_GROUP"] == "long"
    assert os.environ["WANDB_DIR"] == str(tmp_path / "long/seed-1")
    assert os.environ["MLFLOW_EXPERIMENT_NAME"] == "sft_app"
    assert json.loads(os.environ["MLFLOW_TAGS"]) == {"sweep": "long"}


MLFLOW = """
import atexit

runs = ["a run"]


def active_run():
    return runs[-1] if runs else None


def end_run(status="FINISHED"):
    if runs:
        print(runs.pop(), status)


atexit.register(end_run)
"""
"""As far as it matters here, what mlflow/tracking/fluent.py does (3.17)."""


@pytest.mark.parametrize(
    ("before", "told"),
    [
        ("tell_trackers(Status.failed)", "a run FAILED\n"),
        ("tell_trackers(Status.out_of_memory)", "a run FAILED\n"),
        ("tell_trackers(Status.interrupted)", "a run KILLED\n"),
        ("mlflow.end_run(); tell_trackers(Status.failed)", "a run FINISHED\n"),
        ("", "a run FINISHED\n"),
    ],
)
def test_mlflow_learns_how_a_run_ended(tmp_path: Path, before: str, told: str) -> None:
    (tmp_path / "mlflow.py").write_text(MLFLOW)
    program = f"""
import mlflow
from sft_app.compat.python_internals import end_process
from sft_app.records.result import Status
from sft_app.training.experiment_trackers import tell_trackers
{before}
end_process(1)
"""
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    answer = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": path},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (answer.returncode, answer.stdout) == (1, told)
