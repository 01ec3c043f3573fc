"""A real Slurm of two nodes on this one machine: started, used over loopback, taken down again.

Needs root, and Debian's slurmd, slurmctld, slurm-client and munge; eight fake GPUs a node.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
NODE_NAMES = "127.0.0.1 n1 n2\n"
HOSTS = Path("/etc/hosts")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which Slurm's commands, and submitit, find the cluster."""
    if os.geteuid() != 0:
        pytest.skip("sets Slurm up, which takes root")
    if any(shutil.which(program) is None for program in PROGRAMS):
        pytest.skip("needs Debian's slurmd, slurmctld, slurm-client and munge")
    with slurm(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


@contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    environment = {**os.environ, "SLURM_CONF": str(_configure(folder))}
    with ExitStack() as running:
        running.enter_context(_names_of_nodes())
        Path("/run/munge").mkdir(exist_ok=True)
        subprocess.run(["chown", "munge:munge", "/run/munge"], check=True)
        commands = [
            ["runuser", "-u", "munge", "--", "munged", "--foreground"],
            ["slurmctld", "-D"],
            ["slurmd", "-D", "-N", "n1"],
            ["slurmd", "-D", "-N", "n2"],
        ]
        for number, command in enumerate(commands):
            log = running.enter_context((folder / f"{number}-{command[0]}.log").open("w"))
            daemon = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            running.callback(_end, daemon)
            time.sleep(1)
        _wait_until_idle(environment)
        yield environment
        subprocess.run(["scancel", "--partition=main"], env=environment, check=False)


def _configure(folder: Path) -> Path:
    (folder / "state").mkdir(parents=True)
    settings = f"""
        ClusterName=onebox
        SlurmctldHost=localhost(127.0.0.1)
        SlurmUser=root
        SlurmdUser=root
        AuthType=auth/munge
        ProctrackType=proctrack/linuxproc
        TaskPlugin=task/none
        SelectType=select/cons_tres
        SelectTypeParameters=CR_Core
        JobAcctGatherType=jobacct_gather/none
        AccountingStorageType=accounting_storage/none
        MpiDefault=none
        ReturnToService=2
        KillWait=5
        SlurmdParameters=config_overrides
        CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
        GresTypes=gpu
        StateSaveLocation={folder}/state
        SlurmdSpoolDir={folder}/spool-%n
        SlurmctldPidFile={folder}/slurmctld.pid
        SlurmdPidFile={folder}/slurmd-%n.pid
        NodeName=n[1-2] NodeHostname=localhost NodeAddr=127.0.0.1 Port=[17001-17002] CPUs=8 \
RealMemory=8000 Gres=gpu:8
        PartitionName=main Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP
    """
    configuration = folder / "slurm.conf"
    configuration.write_text("\n".join(line.strip() for line in settings.splitlines()))
    (folder / "gres.conf").write_text("NodeName=n[1-2] Name=gpu File=/dev/tty[0-7]\n")
    return configuration


@contextmanager
def _names_of_nodes() -> Iterator[None]:
    before = HOSTS.read_text()
    # Written in place: in a container the file is a mount, and cannot be replaced.
    HOSTS.write_text(before + NODE_NAMES)
    try:
        yield
    finally:
        HOSTS.write_text(HOSTS.read_text().replace(NODE_NAMES, ""))


def _end(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(timeout=20)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def _wait_until_idle(environment: dict[str, str], timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        command = ["sinfo", "--noheader", "--Node", "--format=%t"]
        answer = subprocess.run(command, env=environment, capture_output=True, text=True)
        if answer.stdout.split() == ["idle", "idle"]:
            return
        time.sleep(0.5)
    raise RuntimeError(f"Slurm's nodes are not up: {answer.stdout}{answer.stderr}")
