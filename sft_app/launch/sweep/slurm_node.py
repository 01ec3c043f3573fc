"""One node's part of a Slurm job of several nodes: where they meet, and who decides.

Slurm starts the same program on every node. Node 0 alone decides whether there is anything to run,
and writes the job's files; the others wait for its word, lend their processes, and stay silent.
"""

import time
from pathlib import Path

from sft_app.launch.job.job_errors import JobFailed
from sft_app.launch.nodes.slurm_rendezvous import run_id_on_slurm

POLL_SECONDS = 0.2


def publish_decision(run_dir: Path, *, runs: bool) -> None:
    """Tell the other nodes whether there is anything to run.

    Holds for this start of the job only: a requeued job starts again.
    """
    for old in run_dir.glob(".decision-*"):
        old.unlink()
    partial = run_dir / ".decision.partial"
    partial.write_text("run" if runs else "nothing")
    partial.replace(_decision_file(run_dir))


def wait_for_decision(run_dir: Path, timeout: float) -> bool:
    """Wait for node 0's word, and return it; raises JobFailed when it does not come."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if _decision_file(run_dir).exists():
            return _decision_file(run_dir).read_text() == "run"
        time.sleep(POLL_SECONDS)
    raise JobFailed(f"node 0 of this job has not begun within {timeout:g} seconds")


def _decision_file(run_dir: Path) -> Path:
    return run_dir / f".decision-{run_id_on_slurm()}"
