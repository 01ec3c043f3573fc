"""One job on several nodes, started by hand on each of them or by srun.

Node 0 alone decides the folder, writes its files and concludes. The others learn from it where that
is, look whether they see it too, and lend their processes. They meet at launch.rdzv_endpoint, in
the moment before the workers' own rendezvous takes that port.
"""

import json
import secrets
import socket
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft_app.config.schema.app import AppConfig
from sft_app.config.schema.launch import LaunchConfig
from sft_app.launch.job.job_errors import JobFailed, JobInterrupted
from sft_app.launch.job.run_job import worker_command
from sft_app.launch.job.supervise import run_supervised
from sft_app.launch.job.worker_processes import num_local_processes, worker_environment
from sft_app.launch.nodes.following import Following
from sft_app.records.run_files import CONFIG

SHARED = ".shared"
"""File that node 0 writes, for the others to see that they look at the same folder."""
SECONDS_BETWEEN_TRIES = 0.5
SECONDS_FOR_AN_ANSWER = 30.0
MOST_BYTES = 65_536


@dataclass(frozen=True, kw_only=True)
class Invitation:
    """What node 0 tells the others."""

    run_dir: Path
    run_id: str
    token: str


def invite(launch: LaunchConfig, run_dir: Path) -> str:
    """Tell every other node where the job is run, and return the job's id (node 0).

    Raises JobFailed when they do not come in time, cannot see the folder, or run another number of
    processes.
    """
    told = Invitation(
        run_dir=run_dir.absolute(), run_id=str(uuid.uuid4()), token=secrets.token_hex(16)
    )
    (run_dir / SHARED).write_text(told.token, encoding="utf-8")
    missing = set(range(1, launch.nnodes))
    deadline = time.monotonic() + launch.rdzv_timeout_seconds
    _, port = _address(launch)
    try:
        with socket.create_server(("", port)) as server:
            while missing:
                server.settimeout(max(0.1, deadline - time.monotonic()))
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    raise JobFailed(_who_is_missing(missing, launch)) from None
                with connection:
                    rank = _welcome(connection, told, launch)
                if rank is not None:
                    missing.discard(rank)
    except OSError as error:
        raise JobFailed(
            f"launch.rdzv_endpoint={launch.rdzv_endpoint}: this node cannot listen there "
            f"({error}): name this node's own address and a port that is free."
        ) from error
    return told.run_id


def join(launch: LaunchConfig) -> Invitation:
    """Ask node 0 where the job is run, and see whether that folder is seen from here, too.

    Raises JobFailed when node 0 does not answer, or the folder is not shared.
    """
    deadline = time.monotonic() + launch.rdzv_timeout_seconds
    while True:
        try:
            with socket.create_connection(_address(launch), timeout=5) as connection:
                connection.settimeout(SECONDS_FOR_AN_ANSWER)
                return _introduce(connection, launch)
        except (OSError, ValueError):  # not there yet, or somebody else's port
            if time.monotonic() > deadline:
                raise JobFailed(
                    f"launch.rdzv_endpoint={launch.rdzv_endpoint}: node 0 does not answer there "
                    f"within {launch.rdzv_timeout_seconds} seconds. Start it, or correct the "
                    "address."
                ) from None
            time.sleep(SECONDS_BETWEEN_TRIES)


def help_node_0(config: AppConfig) -> int:
    """Lend this node's processes to the job, and return the exit code (nodes 1 and more).

    What happens to them is recorded and told by node 0. Raises JobFailed and JobInterrupted.
    """
    launch = config.launch
    told = join(launch)
    print(f"Node {launch.node_rank} lends its processes to the run in {told.run_dir}.", flush=True)
    following = Following(told.run_dir)
    ended = run_supervised(
        worker_command(launch, told.run_dir / CONFIG, run_id=told.run_id),
        worker_environment(launch),
        grace_seconds=launch.shutdown_grace_seconds,
        look=following.look,
    )
    if ended.interrupted_by is not None:
        raise JobInterrupted(ended.interrupted_by)
    if ended.gave_up:
        raise JobFailed(f"{following.sentence()}, and this node's processes were still waiting")
    if ended.exit_code:
        print(f"Node {launch.node_rank}: node 0 says what happened, and {told.run_dir} has it.",
              file=sys.stderr)  # fmt: skip
    return min(1, abs(ended.exit_code))


def _welcome(connection: socket.socket, told: Invitation, launch: LaunchConfig) -> int | None:
    """Answer one caller; None when it is no node of ours. Raises JobFailed for one that cannot."""
    connection.settimeout(SECONDS_FOR_AN_ANSWER)
    try:
        with _lines(connection) as (read, write):
            rank, nproc = _hello(read())
            if not 0 < rank < launch.nnodes:
                return None
            write({"run_dir": str(told.run_dir), "run_id": told.run_id, "token": told.token})
            sees_it = bool(read()["sees_it"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not sees_it:
        raise JobFailed(
            f"node {rank} does not see {told.run_dir}: checkpoints of several nodes need a folder "
            "that all of them share. Name one with hydra.run.dir=/shared/..."
        )
    if nproc != num_local_processes(launch):
        raise JobFailed(
            f"node {rank} has {nproc} processes and node 0 has {num_local_processes(launch)}: say "
            "the same number on every node with launch.nproc_per_node=..."
        )
    return rank


def _hello(message: dict[str, Any]) -> tuple[int, int]:
    return int(message["rank"]), int(message["nproc"])


def _introduce(connection: socket.socket, launch: LaunchConfig) -> Invitation:
    with _lines(connection) as (read, write):
        write({"rank": launch.node_rank, "nproc": num_local_processes(launch)})
        answer = read()
        told = Invitation(
            run_dir=Path(answer["run_dir"]), run_id=answer["run_id"], token=answer["token"]
        )
        sees_it = _sees(told)
        write({"sees_it": sees_it})
    if not sees_it:
        raise JobFailed(
            f"this node does not see {told.run_dir} of node 0: checkpoints of several nodes need a "
            "folder that all of them share. Name one with hydra.run.dir=/shared/... on node 0."
        )
    return told


def _sees(told: Invitation) -> bool:
    for _ in range(20):  # a shared file system may show a new file a little late
        try:
            if (told.run_dir / SHARED).read_text(encoding="utf-8") == told.token:
                return True
        except OSError:
            pass
        time.sleep(0.25)
    return False


@contextmanager
def _lines(connection: socket.socket) -> Iterator[tuple[Any, Any]]:
    """Give functions that read and write one JSON object a line."""
    with connection.makefile("r", encoding="utf-8") as incoming:

        def read() -> dict[str, Any]:
            message = json.loads(incoming.readline(MOST_BYTES))
            if not isinstance(message, dict):
                raise ValueError("no message of ours")
            return message

        def write(message: dict[str, Any]) -> None:
            connection.sendall((json.dumps(message) + "\n").encode())

        yield read, write


def _address(launch: LaunchConfig) -> tuple[str, int]:
    assert launch.rdzv_endpoint is not None, "validated, or filled in from Slurm"
    host, _, port = launch.rdzv_endpoint.rpartition(":")
    return host.strip("[]"), int(port)


def _who_is_missing(missing: set[int], launch: LaunchConfig) -> str:
    return (
        f"node {', '.join(map(str, sorted(missing)))} of {launch.nnodes} has not come within "
        f"launch.rdzv_timeout_seconds={launch.rdzv_timeout_seconds}: start the same command there "
        "with its launch.node_rank, or look whether it reaches "
        f"launch.rdzv_endpoint={launch.rdzv_endpoint}."
    )
