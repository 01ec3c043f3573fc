"""hydra/launcher=slurm on a real Slurm of two nodes: jobs of several nodes, failure, requeue."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sft_app.records.result import Status, read_result
from tests.programs import has_saved

pytest.importorskip("submitit", reason="needs the extra [slurm]")
pytestmark = pytest.mark.slurm

PRETEND = {"PYTHONPATH": str(Path(__file__).parents[1] / "pretend")}
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def sweep(tiny_model: Path, chat_file: Path) -> list[str]:
    return [
        "sft-train", "--multirun", "hydra/launcher=slurm", "hydra.launcher.timeout_min=20",
        "sweep.name=cluster", f"model.name_or_path={tiny_model}", f"data.train={chat_file}",
        "data.eval_examples=8",
    ]  # fmt: skip


def test_jobs_of_two_nodes_run_at_once_and_a_failing_one_is_told(
    run_command: Run, tmp_path: Path, sweep: list[str], cluster: dict[str, str]
) -> None:
    answer = run_command(
        *sweep, "launch.nnodes=2", "launch.nproc_per_node=2", "context_length=64,128", "seed=1,13",
        cwd=tmp_path, env={**cluster, **PRETEND, "PRETEND_SECONDS": "10"}, timeout=500,
    )  # fmt: skip
    folder = tmp_path / "outputs/sweeps/cluster"
    assert answer.returncode == 1, answer.stderr
    assert "4 cells: 2 completed, 2 failed" in answer.stdout
    assert "context_length-64_seed-13: failed: OSError" in answer.stdout
    good = [folder / f"context_length-{length}_seed-1" for length in (64, 128)]
    ranks = [
        [json.loads((job / f"note-{rank}.json").read_text()) for rank in range(4)] for job in good
    ]
    for job in ranks:
        assert [rank["node"] for rank in job] == ["n1", "n1", "n2", "n2"]
        assert {rank["world_size"] for rank in job} == {"4"}
    one, other = ranks
    assert one[0]["started"] < other[0]["ended"] and other[0]["started"] < one[0]["ended"]
    assert not set(one[0]["devices"].split(",")) & set(other[0]["devices"].split(","))


def test_a_preempted_job_is_requeued_and_goes_on_from_its_checkpoint(
    tmp_path: Path, sweep: list[str], cluster: dict[str, str]
) -> None:
    program = str(Path(sys.executable).with_name(sweep[0]))
    command = [
        program, *sweep[1:], "launch.nproc_per_node=1", "launch.device=cpu", "context_length=64",
        "trainer.max_steps=60", "trainer.save_steps=1", "evaluation=none",
    ]  # fmt: skip
    job = tmp_path / "outputs/sweeps/cluster/context_length-64"
    submitter = subprocess.Popen(
        command, cwd=tmp_path, env=cluster, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    wait_for(lambda: has_saved(job, 3), submitter)
    number = only_job(cluster)
    subprocess.run(["scancel", "--signal=USR2", number], env=cluster, check=True)
    wait_for(lambda: "PENDING" in state(number, cluster), submitter)
    # Slurm holds a requeued job back for two minutes.
    subprocess.run(
        ["scontrol", "update", f"JobId={number}", "StartTime=now"], env=cluster, check=True
    )
    output = submitter.communicate(timeout=400)[0].decode()
    assert submitter.returncode == 0, output
    result = read_result(job)
    assert result.status is Status.completed
    assert result.resumed_from is not None
    assert result.steps == 60


def only_job(cluster: dict[str, str]) -> str:
    command = ["squeue", "--noheader", "--format=%A"]
    return subprocess.run(command, env=cluster, capture_output=True, text=True).stdout.strip()


def state(job: str, cluster: dict[str, str]) -> str:
    command = ["squeue", "--noheader", "--format=%T", f"--jobs={job}"]
    return subprocess.run(command, env=cluster, capture_output=True, text=True).stdout


def wait_for(
    what: Callable[[], bool], process: subprocess.Popen[bytes], timeout: float = 300
) -> None:
    deadline = time.monotonic() + timeout
    while not what():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.2)
