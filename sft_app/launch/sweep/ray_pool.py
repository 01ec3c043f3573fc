"""A Ray pool for a sweep, started or joined, and known to be large enough before jobs are made."""

import os
import signal
import socket
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sft_app.common.errors import ConfigError
from sft_app.config.schema.launch import LaunchConfig
from sft_app.launch.job.gpus import count_visible_gpus
from sft_app.launch.sweep.launcher import gpus_of_one_node, set_if_null

OBJECT_STORE_BYTES = 78_643_200
"""Ray's smallest: jobs exchange files, not objects."""

CONNECT_SECONDS = 10


def start_pool(master: DictConfig, launch: LaunchConfig) -> None:
    """Connect this process to Ray; Hydra's launcher then uses what is there.

    Raises ConfigError when a job would wait for ever, because no node has what it asks for.
    """
    if launch.nnodes > 1:
        raise ConfigError(
            f"launch.nnodes={launch.nnodes}: a job on Ray runs on one node. Set launch.nnodes=1, "
            "or use hydra/launcher=slurm."
        )
    settings = master.hydra.launcher.ray
    gpus = gpus_of_one_node(launch)
    set_if_null(settings.remote, "num_gpus", gpus)
    set_if_null(settings.remote, "num_cpus", 0 if gpus else int(launch.nproc_per_node))
    wanted = {"GPU": settings.remote.num_gpus, "CPU": settings.remote.num_cpus}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Jobs without a GPU must not see the ones of others.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    import ray

    before = signal.getsignal(signal.SIGTERM)
    try:
        _knock(settings.init.address)
        ray.init(**_arguments(settings.init))
    except OSError as error:  # ConnectionError is one
        raise ConfigError(
            f"hydra.launcher.ray.init.address={settings.init.address}: no Ray cluster answers "
            f"there ({error}). Start one with `ray start --head`, or leave the address out; to a "
            "cluster that asks for a token, RAY_AUTH_MODE=token in the environment opens the door."
        ) from error
    signal.signal(signal.SIGTERM, before)  # Ray's own would end this process with a wrong code
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(has.get(k, 0) >= n for k, n in wanted.items()) for has in nodes):
        ray.shutdown()
        most = ", ".join(f"{max(n.get(k, 0) for n in nodes):g} {k}s" for k in wanted)
        asked = ", ".join(f"{number:g} {kind}s" for kind, number in wanted.items())
        raise ConfigError(
            f"launch.nproc_per_node={launch.nproc_per_node}: a job takes {asked}, and no node of "
            f"the Ray pool has that (at most {most}): the jobs would wait for ever. Lower it, or "
            "say how large the pool is: hydra.launcher.ray.init.num_gpus=8."
        )


def stop_pool() -> None:
    """End this process's jobs, and its pool unless it joined a running cluster."""
    import ray

    ray.shutdown()


def _knock(address: str | None) -> None:
    """Raise OSError when nobody listens at host:port, for which Ray itself would wait for ever."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if port.isdigit():
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()


def _arguments(init: DictConfig) -> dict[str, Any]:
    settings = OmegaConf.to_container(init, resolve=True)
    assert isinstance(settings, dict)
    arguments = {str(key): value for key, value in settings.items() if value is not None}
    if "address" in arguments:
        return arguments
    arguments.setdefault("num_gpus", count_visible_gpus())
    # "local": null would join whatever cluster is found on this machine.
    return {
        "address": "local",
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE_BYTES,
        "_node_ip_address": "127.0.0.1",
        **arguments,
    }
