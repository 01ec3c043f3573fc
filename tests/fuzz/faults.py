"""What may happen to a run while it trains, saves or is concluded."""

import contextlib
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CLOCK = ".clock"
"""A file of the run's folder: how many seconds the clock of its next start is wrong."""
BALLAST = ".ballast"
LEFT_ON_A_FULL_DISK = 4096


@dataclass(frozen=True)
class Job:
    """A parent and its workers, in a session of their own."""

    parent: int
    workers: list[int]
    run_dir: Path

    def has_ended(self) -> bool:
        """Tell whether the parent is no longer running, without collecting it."""
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.parent, flags) is not None

    def wait(self) -> None:
        """Return when parent and workers are gone; whoever outlives the parent fails the round."""
        os.waitpid(self.parent, 0)
        until = time.monotonic() + 60
        while any(is_running(worker) for worker in self.workers):
            assert time.monotonic() < until, "a worker has outlived its parent"
            time.sleep(0.01)

    def send(self, signum: int, *processes: int) -> None:
        """Send a signal to processes that may have ended meanwhile."""
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signum)


@dataclass(frozen=True)
class Fault:
    """Something that happens, by name."""

    name: str
    strike: Callable[[Job, random.Random], None]


def kill_worker(job: Job, chance: random.Random) -> None:
    """SIGKILL of one rank."""
    job.send(signal.SIGKILL, chance.choice(job.workers))


def kill_parent(job: Job, chance: random.Random) -> None:
    """SIGKILL of the parent: its workers end with it, and nobody concludes the run."""
    job.send(signal.SIGKILL, job.parent)


def kill_group(job: Job, chance: random.Random) -> None:
    """SIGKILL of all at once, as of a machine that is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(job.parent, signal.SIGKILL)


def ask(signum: signal.Signals) -> Callable[[Job, random.Random], None]:
    """Return what sends the parent a signal that asks the run to end."""
    return lambda job, chance: job.send(signum, job.parent)


def storm(job: Job, chance: random.Random) -> None:
    """Many signals to everybody, in no order."""
    for _ in range(20):
        signum = chance.choice((signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2))
        job.send(signum, chance.choice(job.workers))
        time.sleep(0.005)


def clock_jump(job: Job, chance: random.Random) -> None:
    """SIGKILL, and the next start finds another time of day: years back, or ahead."""
    (job.run_dir / CLOCK).write_text(str(chance.uniform(-1e8, 1e8)))
    kill_group(job, chance)


def delete_checkpoints(job: Job, chance: random.Random) -> None:
    """Somebody deletes the checkpoints while it trains, and then the run is killed."""
    shutil.rmtree(job.run_dir / "checkpoints", ignore_errors=True)
    time.sleep(chance.uniform(0, 0.2))
    kill_group(job, chance)


def fill_disk(job: Job, chance: random.Random) -> None:
    """The disk is full from now on, until the run has ended of it, or by itself."""
    free = shutil.disk_usage(job.run_dir).free - LEFT_ON_A_FULL_DISK
    with contextlib.suppress(OSError), (job.run_dir.parent / BALLAST).open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, free))


FAULTS = (
    Fault("SIGKILL-worker", kill_worker),
    Fault("SIGKILL-parent", kill_parent),
    Fault("SIGKILL-group", kill_group),
    Fault("SIGTERM", ask(signal.SIGTERM)),
    Fault("SIGUSR1", ask(signal.SIGUSR1)),
    Fault("storm", storm),
    Fault("clock", clock_jump),
    Fault("deleted", delete_checkpoints),
)
FULL_DISK = Fault("full-disk", fill_disk)
"""Only where the folder is a file system of its own: the ballast takes all that is left."""


def put_right(run_dir: Path) -> None:
    """Give back the disk's room."""
    (run_dir.parent / BALLAST).unlink(missing_ok=True)


def let_clock_jump(run_dir: Path) -> None:
    """Let time.time of this process be wrong by as much as the folder says."""
    file = run_dir / CLOCK
    if file.exists():
        wrong, right = float(file.read_text()), time.time
        time.time = lambda: right() + wrong


def is_running(process: int) -> bool:
    """Tell whether a process is there that is no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
