"""One node's part of a Slurm job of several nodes: where they meet, and who decides.

Slurm starts the same program on every node. Node 0 alone decides whether there is anything to run,
and writes the job's files; the others wait for its word, lend their processes, and stay silent.
"""

import dataclasses
import os
import subprocess
import time
from pathlib import Path

from sft_app.config.schema.launch import LaunchConfig
from sft_app.launch.job.errors import JobFailed

FIRST_PORT = 20_000
NUM_PORTS = 20_000
POLL_SECONDS = 0.2


def slurm_rendezvous(launch: LaunchConfig) -> LaunchConfig:
    """Fill in this node's rank and the meeting point, from what Slurm says."""
    if launch.nnodes == 1 or launch.rdzv_endpoint is not None or "SLURM_JOB_ID" not in os.environ:
        return launch
    nodes = subprocess.run(
        ["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    # Jobs that share a node have different ids, and so different ports.
    port = FIRST_PORT + int(os.environ["SLURM_JOB_ID"]) % NUM_PORTS
    return dataclasses.replace(
        launch, rdzv_endpoint=f"{nodes[0]}:{port}", node_rank=int(os.environ["SLURM_NODEID"])
    )


def run_id_on_slurm() -> str:
    """Return what all nodes of this start of the job have in common, and no other job has."""
    job, restart = os.environ["SLURM_JOB_ID"], os.environ.get("SLURM_RESTART_COUNT", "0")
    return f"{job}-{restart}"


def publish_decision(run_dir: Path, *, runs: bool) -> None:
    """Tell the other nodes whether there is anything to run.

    Holds for this start of the job only: a requeued job starts again.
    """
    for old in run_dir.glob(".decision-*"):
        old.unlink()
    partial = run_dir / ".decision.partial"
    partial.write_text("run" if runs else "nothing")
    partial.replace(_decision_file(run_dir))


def wait_for_decision(run_dir: Path, timeout: float) -> bool:
    """Wait for node 0's word, and return it; raises JobFailed when it does not come."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if _decision_file(run_dir).exists():
            return _decision_file(run_dir).read_text() == "run"
        time.sleep(POLL_SECONDS)
    raise JobFailed(f"node 0 of this job has not begun within {timeout:g} seconds")


def _decision_file(run_dir: Path) -> Path:
    return run_dir / f".decision-{run_id_on_slurm()}"
