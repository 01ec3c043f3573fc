"""Start a helper of the tests as a program of its own, alone or on several ranks."""

import os
import signal
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


def usual_signals() -> None:
    """Give a child its usual signals back (for `preexec_fn`): in a shell's background job, such as
    a test run with `&`, SIGINT is ignored, and every child would inherit that."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(signum, signal.SIG_DFL)


def ignoring_sigint() -> None:
    """Start a child as a shell starts a background job (for `preexec_fn`)."""
    usual_signals()
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def run_on_ranks(world_size: int, module: str, *arguments: str) -> str:
    """Run `module` on `world_size` gloo ranks below torchrun; what all of them printed."""
    elastic = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world_size}")
    return run_program(*elastic, "-m", module, *arguments)
