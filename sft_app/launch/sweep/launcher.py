"""What the jobs of a sweep run on: this process's own children, a Ray pool, or a Slurm cluster."""

import dataclasses
from collections.abc import Sequence
from enum import StrEnum

from omegaconf import DictConfig, open_dict, read_write

from sft_app.common.errors import ConfigError
from sft_app.common.processes import is_installed
from sft_app.config.schema.launch import Device, LaunchConfig
from sft_app.launch.sweep.compose_jobs import SweepJob, add_task_override


class Launcher(StrEnum):
    """The classes of Hydra's launchers that keep jobs apart on GPUs."""

    serial = "BasicLauncher"
    ray = "RayLauncher"
    slurm = "SlurmLauncher"


EXTRAS = {Launcher.ray: "hydra_ray_launcher", Launcher.slurm: "hydra_submitit_launcher"}
"""Module below hydra_plugins that comes with the extra."""


def which_launcher(master: DictConfig) -> Launcher:
    """Return the launcher that was asked for.

    Raises ConfigError for one that cannot keep two jobs off the same GPU, or whose extra is not
    installed.
    """
    name = str(master.hydra.launcher._target_).rpartition(".")[2]
    try:
        launcher = Launcher(name)
    except ValueError:
        raise ConfigError(
            f"hydra/launcher: {name} does not keep jobs apart on GPUs. Allowed: basic (one job "
            "after the other), hydra/launcher=ray, hydra/launcher=slurm."
        ) from None
    plugin = EXTRAS.get(launcher)
    if plugin is not None and not is_installed(f"hydra_plugins.{plugin}"):
        raise ConfigError(
            f"hydra/launcher={launcher.name} needs an extra that is not installed: "
            f"pip install 'sft-app[{launcher.name}]'"
        )
    return launcher


def settle_processes(
    master: DictConfig, launcher: Launcher, jobs: Sequence[SweepJob]
) -> tuple[list[SweepJob], LaunchConfig]:
    """Say in the launcher's settings what each job takes; return the jobs, and that.

    A scheduler is asked for the same share for every job. Raises ConfigError when they differ, or
    when the number of processes is not known here.
    """
    shares = {(c.config.launch.nproc_per_node, c.config.launch.nnodes, c.config.launch.device)
              for c in jobs}  # fmt: skip
    if len(shares) > 1:
        raise ConfigError(
            f"launch.nproc_per_node, .nnodes or .device differ between the jobs, and "
            f"hydra/launcher={launcher.name} gives every job the same share: make a sweep of each."
        )
    launch = jobs[0].config.launch
    if launch.nproc_per_node == "auto":
        if launcher is Launcher.slurm:
            raise ConfigError(
                "launch.nproc_per_node=auto: which GPUs the cluster's nodes have is not known "
                "here. Say how many processes a node runs: launch.nproc_per_node=8."
            )
        launch = dataclasses.replace(launch, nproc_per_node=1)
        add_task_override(master, "launch.nproc_per_node=1")
    jobs = [
        dataclasses.replace(c, config=dataclasses.replace(c.config, launch=launch)) for c in jobs
    ]
    return jobs, launch


def gpus_of_one_node(launch: LaunchConfig) -> int:
    """Count the GPUs that a job takes on each of its nodes."""
    return 0 if launch.device is Device.cpu else int(launch.nproc_per_node)


def set_if_null(settings: DictConfig, key: str, value: int) -> None:
    """Set a key that the user has left open."""
    if settings[key] is None:
        with read_write(settings), open_dict(settings):
            settings[key] = value
