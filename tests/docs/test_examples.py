"""The examples: their commands are what the settings allow, and run to the end."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sft_app.config.schema.app import AppConfig
from sft_app.config.validation.validate import validate
from sft_app.records.result import Status, read_result
from tests.docs.pages import ROOT
from tests.newer_transformers import skip_if_it_needs_sharded_models

SCRIPTS = sorted((ROOT / "examples").glob("*.sh"))
LEAVES = {
    "adapter": ["runs/example_adapter/model/model.safetensors"],
    "first_run": ["runs/example_first_run/model/model.safetensors"],
    "longer_context": ["runs/example_longer_context/report.html"],
    "resume": ["runs/example_resume/checkpoints/checkpoint-200", "runs/example_resume/model"],
    "sweep": ["sweeps/example/sweep.csv", "sweeps/example/report.html"],
    "two_processes": ["runs/example_sharded/model", "runs/example_context_parallel/model"],
}
"""Example -> what is below outputs/ afterwards."""

STAND_IN = """#!/bin/sh
printf '%s\\t' "$(basename "$0")" "$@" >> "$CALLS"; echo >> "$CALLS"
sleep 0.1
"""


def run_script(script: Path, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(script)],
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_example_is_listed_and_has_something_to_leave() -> None:
    page = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    assert {script.stem for script in SCRIPTS} == LEAVES.keys()
    for script in SCRIPTS:
        assert f"[{script.name}]({script.name})" in page
        assert os.access(script, os.X_OK), script


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_its_commands_are_accepted(
    script: Path, compose: Callable[..., AppConfig], tmp_path: Path
) -> None:
    """With commands that only note how they were called, and then the real checks."""
    for command in ("sft-train", "sft-plan", "sft-report"):
        (tmp_path / command).write_text(STAND_IN)
        (tmp_path / command).chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    (tmp_path / "outputs/runs/example_resume/checkpoints/checkpoint-20").mkdir(parents=True)
    answer = run_script(
        script, tmp_path, PATH=path, CALLS=str(tmp_path / "calls"), MODEL="org/model"
    )
    assert answer.returncode == 0, answer.stderr
    calls = [line.split("\t")[:-1] for line in (tmp_path / "calls").read_text().splitlines()]
    composed = [call for call in calls if call[0] in ("sft-train", "sft-plan")]
    assert composed
    for _, *overrides in composed:
        jobs = [overrides]
        if "--multirun" in overrides:
            jobs = [[o.split(",")[0] for o in overrides if o != "--multirun"]]
        for job in jobs:
            config = compose(*job)
            skip_if_it_needs_sharded_models(config)
            validate(config)


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_it_runs_to_the_end(script: Path, tiny_model: Path, tmp_path: Path) -> None:
    programs = Path(sys.executable).parent
    answer = run_script(
        script,
        tmp_path,
        PATH=f"{programs}{os.pathsep}{os.environ['PATH']}",
        MODEL=str(tiny_model),
        OMP_NUM_THREADS="1",
    )
    assert answer.returncode == 0, answer.stderr
    for left in LEAVES[script.stem]:
        assert (tmp_path / "outputs" / left).exists(), left
    if script.stem == "resume":
        result = read_result(tmp_path / "outputs/runs/example_resume")
        assert result.status is Status.completed and result.resumed_from
    if script.stem == "sweep":
        assert "nothing is left to do" in answer.stdout.lower()
