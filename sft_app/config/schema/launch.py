"""Processes for one job."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Device(StrEnum):
    """What workers compute on."""

    auto = "auto"
    """CUDA where it works, else the CPU."""
    cpu = "cpu"
    """The CPU, whatever GPUs there are."""
    cuda = "cuda"
    """CUDA; an error where there is none."""


@dataclass(kw_only=True)
class LaunchConfig:
    """Say how many processes one job has, and on what they compute."""

    # OmegaConf 2.3 cannot merge a union into a MISSING group: Any, checked in validate.py.
    nproc_per_node: Any = "auto"
    """Worker processes on each node: a number, or auto (one per visible GPU, or 1)."""
    nnodes: int = 1
    """Machines that train this job together."""
    node_rank: int | None = None
    """This node's rank when nodes are started by hand; null: from Slurm, or 0."""
    rdzv_endpoint: str | None = None
    """host:port of node 0, the same on every node; null: from Slurm, or a free local port."""
    rdzv_timeout_seconds: int = 900
    """How long the nodes wait for each other before the job ends."""
    device: Device = Device.auto
    """What workers compute on; auto: CUDA where it works."""
    cpu_threads: int | None = None
    """Threads of each CPU worker; null: the cores shared out among the workers."""
    shutdown_grace_seconds: int = 120
    """After a signal, how long workers may take to finish their step and write a checkpoint before
    they are killed; a second signal kills them at once."""
    timeout: int = 1800
    """Seconds without a finished micro-batch, step or checkpoint after which training counts as
    hung: the job ends, with the stacks of every rank in `stacks/`. 0: never. Loading before it and
    the final save after it have `model_timeout`; reading data and evaluation have no limit."""
    model_timeout: int = 14400
    """Seconds that loading the model, preparing it, or saving it at the end may take each before
    the job counts as hung. 0: any."""
