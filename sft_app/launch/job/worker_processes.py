"""How many processes a job has, and what they are started with."""

import atexit
import os
import tempfile
from functools import cache
from pathlib import Path

from sft_app.common.processes import available_cores
from sft_app.config.schema.launch import Device, LaunchConfig
from sft_app.launch.job.gpus import count_visible_gpus
from sft_app.records.run_files import JOB_LABEL, WARNINGS_SHOWN


def num_local_processes(launch: LaunchConfig) -> int:
    """Return launch.nproc_per_node, with auto = the visible GPUs, or one process without any."""
    if isinstance(launch.nproc_per_node, int):
        return launch.nproc_per_node
    gpus = 0 if launch.device is Device.cpu else count_visible_gpus()
    return max(1, gpus)


def world_size(launch: LaunchConfig) -> int:
    """Return the number of processes on all nodes."""
    return num_local_processes(launch) * launch.nnodes


def worker_environment(launch: LaunchConfig) -> dict[str, str]:
    """Return the parent's environment, with the cores shared out among the workers."""
    environment = dict(os.environ)
    nproc = num_local_processes(launch)
    threads = launch.cpu_threads or max(1, available_cores() // nproc)
    environment.setdefault("OMP_NUM_THREADS", str(threads))
    # Fork-safety warnings of the tokenizers library; its own threads stay on.
    environment.setdefault("TOKENIZERS_PARALLELISM", "true")
    environment.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    # The agent kills its workers a little before the parent would kill the agent.
    grace = max(1, launch.shutdown_grace_seconds - 2)
    environment["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(grace)
    if launch.device is Device.cpu:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    elif nproc == 1 and count_visible_gpus() > 1:
        # One process would spread each batch over all that it sees (DataParallel).
        environment["CUDA_VISIBLE_DEVICES"] = environment.get("CUDA_VISIBLE_DEVICES", "0").split(
            ","
        )[0]
    return environment


def screen_environment(label: str | None) -> dict[str, str]:
    """Return what a job of a sweep is told about the screen that it shares with the others.

    None for a run of its own, without a label.
    """
    if label is None:
        return {}
    return {JOB_LABEL: label, WARNINGS_SHOWN: str(_shared_file())}


@cache
def _shared_file() -> Path:
    """Make the file for the jobs that this process runs; it goes with the process."""
    with tempfile.NamedTemporaryFile(prefix="sft-warnings-", delete=False) as file:
        path = Path(file.name)
    atexit.register(path.unlink, missing_ok=True)
    return path
