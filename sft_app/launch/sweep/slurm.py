"""A sweep on Slurm: what is asked of it, and how the jobs left there are ended."""

import shutil
from pathlib import Path

from omegaconf import DictConfig

from sft_app.common.errors import ConfigError
from sft_app.config.schema.launch import LaunchConfig
from sft_app.launch.sweep.launcher import gpus_of_one_node, set_if_null

SUBMITTED = ".submitit"
"""Folder of a sweep in which submitit keeps one folder for each of Slurm's jobs."""


def prepare_slurm(master: DictConfig, launch: LaunchConfig) -> None:
    """Say in the launcher's settings what one job takes; ConfigError where there is no Slurm."""
    if shutil.which("sbatch") is None:
        raise ConfigError(
            "hydra/launcher=slurm: there is no sbatch on this machine. Start the sweep on a login "
            "node of the cluster."
        )
    settings = master.hydra.launcher
    gpus = gpus_of_one_node(launch)
    if gpus:
        set_if_null(settings, "gpus_per_node", gpus)
    set_if_null(settings, "cpus_per_task", int(launch.nproc_per_node))


def how_to_cancel(sweep_dir: Path) -> str | None:
    """The command that ends the jobs of the last submission; None when nothing was submitted."""
    folders = [path for path in (sweep_dir / SUBMITTED).glob("[0-9]*") if path.is_dir()]
    if not folders:
        return None
    newest = max(folders, key=lambda path: path.stat().st_mtime)
    return f"scancel {newest.name.partition('_')[0]}"
