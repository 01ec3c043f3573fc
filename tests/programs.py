"""Start a helper of the tests as a program of its own, alone or on several ranks."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

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


STARTED_BY = "SFT_TEST_STARTED_BY"
"""Environment variable by which a test knows what it has started, orphans as well."""


@contextlib.contextmanager
def started(
    command: Sequence[str],
    *,
    begin: Callable[[], None] = usual_signals,
    env: Mapping[str, str] | None = None,
    **kwargs: Any,
) -> Iterator[subprocess.Popen[Any]]:
    """Start `command` with its usual signals; whatever it has left at the end is killed."""
    mark = uuid.uuid4().hex
    environment = {**os.environ, **(env or {}), STARTED_BY: mark}
    process = subprocess.Popen(command, preexec_fn=begin, env=environment, **kwargs)
    try:
        yield process
    finally:
        for left in everything_marked(mark):
            with contextlib.suppress(psutil.Error):
                left.kill()
        process.wait(timeout=30)


def everything_marked(mark: str) -> list[psutil.Process]:
    """Return the processes that were started, directly or not, with this mark."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(STARTED_BY) == mark:
                found.append(process)
    return found


def wait_for(
    what: Callable[[], object], process: subprocess.Popen[bytes], timeout: float = 200
) -> None:
    """Wait until `what` is true, as long as `process` runs."""
    deadline = time.monotonic() + timeout
    while not what():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)


def has_saved(run_dir: Path, step: int) -> bool:
    """Whether a run has saved a checkpoint of `step` or of a later step.

    A fast run deletes its old checkpoints before anybody has seen them, so that no single one can
    be waited for."""
    found = (run_dir / "checkpoints").glob("checkpoint-*")
    steps = (path.name.removeprefix("checkpoint-") for path in found)
    return any(int(name) >= step for name in steps if name.isdecimal())


def run_on_ranks(world_size: int, module: str, *arguments: str) -> str:
    """Run `module` on `world_size` gloo ranks below torchrun; what all of them printed."""
    elastic = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world_size}")
    return run_program(*elastic, "-m", module, *arguments)
