"""Two ranks take the step that one process takes."""

import os
import subprocess
import sys
from pathlib import Path


def test_ddp_and_fsdp2_equal_one_process(tmp_path: Path) -> None:
    worker = Path(__file__).with_name("two_ranks.py")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
        str(worker), str(tmp_path),
    ]  # fmt: skip
    answer = subprocess.run(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr[-3000:]
    for rank in (0, 1):
        assert f"rank {rank}: DDP equals one process" in answer.stdout
        assert f"rank {rank}: FSDP2 equals one process, shard_head=False" in answer.stdout
        assert f"rank {rank}: FSDP2 equals one process, shard_head=True" in answer.stdout
