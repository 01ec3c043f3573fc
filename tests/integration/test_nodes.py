"""Two nodes of one job, started by hand: two real commands that meet, on one machine."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sft_app.records.result import Status, read_result
from tests.programs import ROOT, usual_signals


@pytest.mark.slow
def test_two_commands_become_one_job_in_the_folder_of_node_0(
    tmp_path: Path, tiny_model: Path, chat_file: Path
) -> None:
    """With pretended training: who runs where, and who writes what. Their folders differ."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def start(rank: int) -> subprocess.Popen[str]:
        command = [
            str(Path(sys.executable).with_name("sft-train")),
            f"model.name_or_path={tiny_model}", f"data.train={chat_file}", "context_length=64",
            "launch.device=cpu", "launch.nproc_per_node=1", "launch.nnodes=2",
            f"launch.node_rank={rank}", f"launch.rdzv_endpoint=127.0.0.1:{port}",
            f"hydra.run.dir=node-{rank}",
        ]  # fmt: skip
        pretend = {"PYTHONPATH": str(ROOT / "tests/pretend"), "PRETEND_SECONDS": "0.5"}
        return subprocess.Popen(
            command, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, **pretend}, preexec_fn=usual_signals,
        )  # fmt: skip

    nodes = [start(1), start(0)]
    outputs = [node.communicate(timeout=300)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    assert "Node 1 lends its processes" in outputs[0]
    assert not (tmp_path / "node-1").exists()
    assert read_result(tmp_path / "node-0").status is Status.completed
    assert {path.name for path in (tmp_path / "node-0").glob("note-*.json")} == {
        "note-0.json", "note-1.json",
    }  # fmt: skip
