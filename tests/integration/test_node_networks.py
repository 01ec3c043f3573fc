"""Two nodes with networks of their own: what one machine's loopback would hide.

Each command lives in its own network namespace, and only a cable (a veth pair) joins the two: no
address of the one is an address of the other. They train for real, on two gloo ranks.
"""

import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sft_app.records.result import Status, read_result
from tests.programs import usual_signals

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and iproute2"
    ),
]

ADDRESSES = ("10.77.0.1", "10.77.0.2")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def namespaces() -> Iterator[list[str]]:
    """Two namespaces, joined by a cable, whose ends are called cable0 and cable1."""
    names = [f"sft-{os.getpid()}-{rank}" for rank in range(2)]
    try:
        for name in names:
            ip("netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
    try:
        ip("link", "add", "cable0", "netns", names[0], "type", "veth",
           "peer", "name", "cable1", "netns", names[1])  # fmt: skip
        for rank, (name, address) in enumerate(zip(names, ADDRESSES, strict=True)):
            ip("-n", name, "address", "add", f"{address}/24", "dev", f"cable{rank}")
            ip("-n", name, "link", "set", f"cable{rank}", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False)


def test_two_nodes_train_one_model_over_a_cable(
    namespaces: list[str], tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    def start(rank: int) -> subprocess.Popen[str]:
        command = [
            "ip", "netns", "exec", namespaces[rank],
            str(Path(sys.executable).with_name("sft-train")),
            f"model.name_or_path={tiny_model}", f"data.train={chat_file}", "context_length=64",
            "launch.device=cpu", "launch.nproc_per_node=1", "launch.nnodes=2",
            f"launch.node_rank={rank}", f"launch.rdzv_endpoint={ADDRESSES[0]}:29400",
            f"hydra.run.dir=node-{rank}", "trainer.max_steps=2", "evaluation=none",
            "trainer.per_device_train_batch_size=1", "trainer.gradient_accumulation_steps=1",
        ]  # fmt: skip
        return subprocess.Popen(
            command, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, "GLOO_SOCKET_IFNAME": f"cable{rank}", "OMP_NUM_THREADS": "1"},
            preexec_fn=usual_signals,
        )  # fmt: skip

    nodes = [start(1), start(0)]
    outputs = [node.communicate(timeout=400)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], "\n".join(outputs)
    result = read_result(tmp_path / "node-0")
    assert (result.status, result.world_size, result.steps) == (Status.completed, 2, 2)
    assert result.train_loss_last is not None and math.isfinite(result.train_loss_last)
    assert (tmp_path / "node-0/model/config.json").is_file()
    assert not (tmp_path / "node-1").exists()
