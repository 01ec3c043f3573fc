"""hydra/launcher=ray on a real local pool of pretended GPUs; jobs note where and when they ran."""

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from sft_app.records.result import Status, read_result
from tests.programs import started

pytest.importorskip("ray", reason="needs the extra [ray]")
pytestmark = pytest.mark.slow

PRETEND = {"PYTHONPATH": str(Path(__file__).parents[1] / "pretend")}
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def sweep(tiny_model: Path, chat_file: Path) -> list[str]:
    return [
        "sft-train", "--multirun", "hydra/launcher=ray", "hydra.launcher.ray.init.num_gpus=4",
        "launch.nproc_per_node=2", "sweep.name=pool", f"model.name_or_path={tiny_model}",
        f"data.train={chat_file}",
    ]  # fmt: skip


def notes(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in folder.glob("*/note-0.json")]
    return sorted(found, key=lambda note: note["started"])


def test_two_jobs_at_once_on_gpus_of_their_own_and_the_third_takes_the_freed_ones(
    run_command: Run, tmp_path: Path, sweep: list[str]
) -> None:
    answer = run_command(*sweep, "context_length=64,128,256", cwd=tmp_path, env=PRETEND,
                         timeout=400)  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    first, second, third = notes(tmp_path / "outputs/sweeps/pool")
    assert {first["devices"], second["devices"]} == {"0,1", "2,3"}
    assert second["started"] < first["ended"]  # at once
    assert third["started"] > min(first["ended"], second["ended"])
    assert third["devices"] in ("0,1", "2,3")
    assert {note["world_size"] for note in (first, second, third)} == {"2"}


def test_a_failing_job_is_told_when_it_fails_and_the_others_go_on(
    run_command: Run, tmp_path: Path, sweep: list[str]
) -> None:
    answer = run_command(*sweep, "context_length=64", "seed=13,1,2", cwd=tmp_path, env=PRETEND,
                         timeout=400)  # fmt: skip
    assert answer.returncode == 1
    assert "context_length-64_seed-13: failed: OSError" in answer.stdout
    assert "3 cells: 2 completed, 1 failed" in answer.stdout


def test_what_never_fits_is_an_error_and_no_wait(
    run_command: Run, tmp_path: Path, sweep: list[str]
) -> None:
    answer = run_command(*sweep, "launch.nproc_per_node=8", cwd=tmp_path)
    assert answer.returncode == 2
    assert "a job takes 8 GPUs" in answer.stderr
    assert "at most 4 GPUs" in answer.stderr
    assert not (tmp_path / "outputs").exists()


def test_a_running_cluster_is_joined_and_outlives_the_sweep(
    run_command: Run, tmp_path: Path, sweep: list[str]
) -> None:
    address = "127.0.0.1:6399"
    short = tempfile.mkdtemp(prefix="ray-")  # Ray's sockets lie there: 107 bytes at the most
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    command += ["--port=6399", "--node-ip-address=127.0.0.1", "--num-gpus=4"]
    command += ["--include-dashboard=false", f"--temp-dir={short}"]
    # A cluster of the test's own, on loopback: without the token that Ray asks for by default.
    open_door = {**PRETEND, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    nowhere = subprocess.DEVNULL
    with started(command, env=open_door, stdout=nowhere, stderr=nowhere) as cluster:
        wait_for_port(6399, cluster)
        joined = [word for word in sweep if "num_gpus" not in word]
        answer = run_command(
            *joined, f"hydra.launcher.ray.init.address={address}", "context_length=64,128",
            cwd=tmp_path, env=open_door, timeout=400,
        )  # fmt: skip
        assert answer.returncode == 0, answer.stderr
        assert {n["devices"] for n in notes(tmp_path / "outputs/sweeps/pool")} == {"0,1", "2,3"}
        assert cluster.poll() is None
        cluster.terminate()
        cluster.wait(timeout=30)
    shutil.rmtree(short, ignore_errors=True)


def wait_for_port(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert server.poll() is None, "the cluster did not start"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.5)
    raise AssertionError("the cluster does not answer")


def test_interrupted_nothing_is_left_running(tmp_path: Path, sweep: list[str]) -> None:
    folder = tmp_path / "outputs/sweeps/pool"
    program = str(Path(sys.executable).with_name(sweep[0]))
    with started(
        [program, *sweep[1:], "context_length=64,128,256"], cwd=tmp_path,
        env={**PRETEND, "PRETEND_SECONDS": "600"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 300
        while len(list(folder.glob("*/note-1.json"))) < 2:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.1)
        workers = [json.loads(p.read_text())["pid"] for p in folder.glob("*/note-*.json")]
        below = psutil.Process(process.pid).children(recursive=True)
        below += [psutil.Process(pid) for pid in workers if psutil.pid_exists(pid)]
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == 130
        assert not psutil.wait_procs(below, timeout=30)[1]
    statuses = sorted(read_result(path.parent).status for path in folder.glob("*/result.json"))
    assert statuses == [Status.interrupted, Status.interrupted, Status.pending]
