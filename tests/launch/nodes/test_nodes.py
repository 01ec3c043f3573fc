"""Nodes that were started by hand: node 0 decides the folder, the others see it or say so."""

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sft_app.config.schema.launch import LaunchConfig
from sft_app.launch.job.job_errors import JobFailed
from sft_app.launch.nodes.nodes import SHARED, Invitation, invite, join


def launch(port: int, rank: int, **other: Any) -> LaunchConfig:
    settings: dict[str, Any] = {"nnodes": 3, "nproc_per_node": 2, "rdzv_timeout_seconds": 20}
    return LaunchConfig(rdzv_endpoint=f"127.0.0.1:{port}", node_rank=rank, **{**settings, **other})


def join_late(config: LaunchConfig) -> Invitation:
    time.sleep(1)
    return join(config)


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def at_once(*calls: Callable[[], object]) -> list[object]:
    """Call all in threads of their own, and return what each returned or raised."""
    found: list[object] = [None] * len(calls)

    def keep(number: int) -> None:
        try:
            found[number] = calls[number]()
        except JobFailed as error:
            found[number] = error

    threads = [threading.Thread(target=keep, args=(n,)) for n in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


def test_all_nodes_learn_the_folder_and_the_job(tmp_path: Path, port: int) -> None:
    def a_stranger() -> None:
        time.sleep(0.3)
        for words in (b"GET / HTTP/1.1\r\n\r\n", b'{"rank": 7, "nproc": 2}\n', b""):
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(words)

    run_id, one, two, _ = at_once(
        lambda: invite(launch(port, 0), tmp_path),
        lambda: join(launch(port, 1)),
        lambda: join_late(launch(port, 2)),
        a_stranger,
    )
    assert isinstance(run_id, str) and run_id
    for told in (one, two):
        assert isinstance(told, Invitation)
        assert (told.run_dir, told.run_id) == (tmp_path, run_id)


def test_a_folder_that_is_not_shared_is_noticed_on_both_sides(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file of the token is another one for node 1, as with a disk of its own."""
    real = Path.read_text

    def other_disk(path: Path, *args: str, **kwargs: str) -> str:
        return "another disk's" if path.name == SHARED else real(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", other_disk)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    node_0, node_1 = at_once(
        lambda: invite(launch(port, 0, nnodes=2), tmp_path),
        lambda: join(launch(port, 1, nnodes=2)),
    )
    for error in (node_0, node_1):
        assert isinstance(error, JobFailed)
        assert "hydra.run.dir=/shared/" in str(error)


def test_another_number_of_processes_is_refused(tmp_path: Path, port: int) -> None:
    node_0, _ = at_once(
        lambda: invite(launch(port, 0, nnodes=2), tmp_path),
        lambda: join(launch(port, 1, nnodes=2, nproc_per_node=4)),
    )
    assert "node 1 has 4 processes and node 0 has 2" in str(node_0)


def test_who_does_not_come_is_named(tmp_path: Path, port: int) -> None:
    with pytest.raises(JobFailed, match="node 1, 2 of 3 has not come"):
        invite(launch(port, 0, rdzv_timeout_seconds=1), tmp_path)
    with pytest.raises(JobFailed, match="node 0 does not answer"):
        join(launch(port, 1, rdzv_timeout_seconds=1))
