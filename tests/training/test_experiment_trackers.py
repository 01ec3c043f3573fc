"""Project, name and group of a run, where transformers' callbacks look for them."""

import json
import os
from pathlib import Path

import pytest

from sft_app.records.run_files import JOB_LABEL
from sft_app.training.experiment_trackers import TrackedRun, name_tracked_run, tracked_run


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
