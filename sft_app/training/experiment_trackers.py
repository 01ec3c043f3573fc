"""What a run is called where others keep its metrics (W&B, MLflow, ...), and how it ended.

transformers' callbacks read project, name and group from the environment; what stands there already
is left alone.
"""

import atexit
import json
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sft_app.records.result import Status
from sft_app.records.run_files import JOB_LABEL

PROJECT = "sft_app"
_TIME = re.compile(r"\d\d-\d\d-\d\d")


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """How a run is found again among others."""

    name: str
    """The run's folder, which in a sweep is named after the job's settings."""
    group: str | None
    """The sweep that it is a job of; None: it is none."""


def tracked_run(run_dir: Path, *, is_job_of_sweep: bool) -> TrackedRun:
    """Name a run after its folder, and its sweep after the folder around it."""
    folder = run_dir.absolute()
    return TrackedRun(
        name=_called(folder), group=_called(folder.parent) if is_job_of_sweep else None
    )


def name_tracked_run(run_dir: Path, report_to: Iterable[str]) -> str:
    """Put project and group where the loggers of `report_to` look; return the run's name."""
    run = tracked_run(run_dir, is_job_of_sweep=JOB_LABEL in os.environ)
    for logger in report_to:
        for variable, value in _environment(logger, run, run_dir).items():
            if value is not None:
                os.environ.setdefault(variable, value)
    return run.name


def tell_trackers(status: Status) -> None:
    """Let trackers know, when this process ends, that its run is not complete.

    MLflow calls every run finished whose process ends by itself. W&B goes by the exit code.
    """
    mlflow = sys.modules.get("mlflow")
    if mlflow is not None and mlflow.active_run() is not None:
        word = "KILLED" if status is Status.interrupted else "FAILED"
        atexit.register(mlflow.end_run, word)  # before MLflow's own: the last comes first


def _environment(logger: str, run: TrackedRun, run_dir: Path) -> dict[str, str | None]:
    match logger:
        case "wandb":
            # What it keeps on disk, all of it when offline, stays in the run's own folder.
            return {
                "WANDB_PROJECT": PROJECT,
                "WANDB_RUN_GROUP": run.group,
                "WANDB_DIR": str(run_dir.absolute()),
            }
        case "mlflow":
            tags = json.dumps({"sweep": run.group}) if run.group is not None else None
            return {"MLFLOW_EXPERIMENT_NAME": PROJECT, "MLFLOW_TAGS": tags}
        case "swanlab":
            return {"SWANLAB_PROJECT": PROJECT}
        case "comet_ml":
            return {"COMET_PROJECT_NAME": PROJECT}
        case "clearml":
            return {"CLEARML_PROJECT": PROJECT}
        case _:
            return {}


def _called(folder: Path) -> str:
    """Return a folder's name; of one that is a time of day, with the date above it."""
    if _TIME.fullmatch(folder.name):
        return f"{folder.parent.name}_{folder.name}"
    return folder.name
