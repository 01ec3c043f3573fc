"""Where the nodes of a Slurm job meet, and how one start of it is told from all others."""

import dataclasses
import os
import subprocess

from sft_app.config.schema.launch import LaunchConfig

FIRST_PORT = 20_000
NUM_PORTS = 20_000


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
