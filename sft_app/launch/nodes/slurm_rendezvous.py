"""Where the nodes of a Slurm job meet, and how one start of it is told from all others."""

import dataclasses
import os
import subprocess

from sft_app.config.schema.launch import LaunchConfig

FIRST_PORT = 20_000
NUM_PORTS = 20_000


def slurm_rendezvous(launch: LaunchConfig) -> LaunchConfig:
    """Fill in this node's rank and the meeting point, from what Slurm says.

    Of the step where there is one: several may share the nodes of a job, and each counts its own.
    """
    if launch.nnodes == 1 or launch.rdzv_endpoint is not None or "SLURM_JOB_ID" not in os.environ:
        return launch
    own = os.environ.get("SLURM_STEP_NODELIST") or os.environ["SLURM_JOB_NODELIST"]
    nodes = subprocess.run(
        ["scontrol", "show", "hostnames", own],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    # Jobs, and steps of one, that share a node have different ids, and so different ports.
    job, step = int(os.environ["SLURM_JOB_ID"]), int(os.environ.get("SLURM_STEP_ID", "0"))
    port = FIRST_PORT + (job + step) % NUM_PORTS
    return dataclasses.replace(
        launch, rdzv_endpoint=f"{nodes[0]}:{port}", node_rank=int(os.environ["SLURM_NODEID"])
    )


def run_id_on_slurm() -> str:
    """Return what all nodes of this start of the job have in common, and no other job has."""
    job, restart = os.environ["SLURM_JOB_ID"], os.environ.get("SLURM_RESTART_COUNT", "0")
    return f"{job}-{restart}"
