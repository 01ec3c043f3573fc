"""Start a helper of the tests as a program of its own, alone or on several ranks."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
"""The checkout: helpers are modules such as tests.training.parallel.two_ranks, found from here."""


def run_program(*arguments: str, env: dict[str, str] | None = None, timeout: float = 500) -> str:
    """Run `python arguments...` from the checkout, and return what it printed; it must succeed."""
    answer = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr[-5000:]
    return answer.stdout


def run_on_ranks(world_size: int, module: str, *arguments: str) -> str:
    """Run `module` on `world_size` gloo ranks below torchrun; what all of them printed."""
    elastic = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world_size}")
    return run_program(*elastic, "-m", module, *arguments)
