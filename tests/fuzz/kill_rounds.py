"""Kill a run again and again, start it again each time, and compare what comes out in the end.

`python -m tests.fuzz.kill_rounds --rounds 100` is what `make fuzz` runs. One process pays for the
imports and forks every start, so that a start costs a second and not ten: a parent, which does
what run_job does (first result, conclusion), and its workers below it. Two thirds of the faults
fall within a moment of some step, the others after the last one: into the last checkpoint, the
final save, the evaluation, and the parent's conclusion. faults.py says which there are.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from sft_app.common.processes import die_with_parent
from sft_app.config.schema.app import AppConfig, save_config
from sft_app.launch.job.conclude import conclude
from sft_app.launch.job.job_state import JobState, look_at
from sft_app.launch.job.run_job import initial_result
from sft_app.launch.job.supervise import Ended
from sft_app.records.failure import clear_failures
from sft_app.records.identity import identity_of
from sft_app.records.manifest import damage_of
from sft_app.records.result import Status, read_result
from sft_app.records.step_log import last_line
from tests.fuzz.faults import FAULTS, FULL_DISK, Fault, Job, let_clock_jump, put_right


@dataclass
class Tally:
    """What all rounds came to."""

    rounds: int = 0
    equal: int = 0
    starts: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    differing: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        faults = ", ".join(f"{count} {name}" for name, count in sorted(self.faults.items()))
        told = f"{self.equal} of {self.rounds} rounds equal; {self.starts} starts; {faults}"
        return "\n".join([told, *self.differing])


def run_rounds(
    config: AppConfig,
    folder: Path,
    rounds: int,
    *,
    seed: int,
    ranks: int,
    most_kills: int,
    faults: tuple[Fault, ...] = FAULTS,
) -> Tally:
    """Run once undisturbed, then `rounds` times with kills; compare each end with the first."""
    chance = random.Random(seed)
    tally = Tally()
    run(config, folder / "undisturbed", ranks, None, tally)
    line = last_line(folder / "undisturbed")
    assert line is not None, output_of(folder / "undisturbed").read_text()
    seconds = 2 * (line.seconds or 0) / line.step
    expected = digests(folder / "undisturbed")
    for number in range(rounds):
        run_dir = folder / f"round-{number}"
        killer = Killer(chance, config.trainer.max_steps, seconds, most_kills, faults)
        for _ in range(50):
            if run(config, run_dir, ranks, killer, tally):
                break
        tally.rounds += 1
        found = digests(run_dir)
        tally.equal += found == expected
        if found != expected:
            changed = [name for name in expected if found.get(name) != expected[name]]
            tally.differing.append(f"{run_dir}: {', '.join(changed)} ({killer.log})")
    return tally


@dataclass
class Killer:
    """Decides when, and with what, the next start is ended."""

    chance: random.Random
    most_steps: int
    seconds_of_a_step: float
    most_kills: int
    """In one round; after that the run is left alone."""
    faults: tuple[Fault, ...]
    log: list[str] = field(default_factory=list)

    def watch(self, run_dir: Path, job: Job, tally: Tally) -> None:
        """Wait for the moment, and let something happen to the job."""
        if len(self.log) >= self.most_kills:
            return
        late = self.chance.random() < 1 / 3
        step = None if late else self.chance.randint(steps_of(run_dir), self.most_steps)
        delay = self.chance.uniform(0, self.seconds_of_a_step)
        fault = self.chance.choice(self.faults)
        while not (after_training(run_dir) if step is None else steps_of(run_dir) >= step):
            if job.has_ended():
                return
            time.sleep(0.005)
        time.sleep(delay)
        if job.has_ended():
            return
        self.log.append(f"{fault.name} {delay:.2f} s after {'training' if late else step}")
        tally.faults[fault.name] += 1
        fault.strike(job, self.chance)


def run(config: AppConfig, run_dir: Path, ranks: int, killer: Killer | None, tally: Tally) -> bool:
    """Start the run once, as sft-train does; True when it is done."""
    if look_at(run_dir, config).state is JobState.done:
        return True
    run_dir.mkdir(parents=True, exist_ok=True)
    save_config(config, run_dir / "config.yaml")
    clear_failures(run_dir)
    initial_result(config, Status.running).write(run_dir)
    identity_of(config, ranks).write(run_dir)
    tally.starts += 1
    job = start(config, run_dir, ranks, str(20_000 + tally.starts % 20_000))
    if killer is not None:
        killer.watch(run_dir, job, tally)
    job.wait()
    put_right(run_dir)
    return read_result(run_dir).status is Status.completed


def start(config: AppConfig, run_dir: Path, ranks: int, port: str) -> Job:
    """Fork the parent of a job in a session of its own; it forks the workers, and concludes."""
    told, tells = os.pipe()
    parent = os.fork()
    if parent:
        os.close(tells)
        with os.fdopen(told) as lines:
            return Job(parent, [int(lines.readline()) for _ in range(ranks)], run_dir)
    os.setsid()
    with output_of(run_dir).open("a") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    workers = [fork_worker(run_dir, rank, ranks, port) for rank in range(ranks)]
    os.write(tells, "".join(f"{worker}\n" for worker in workers).encode())
    for signum in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(signum, lambda number, frame: pass_on(workers))
    codes = [wait(worker, workers) for worker in workers]
    worst = next((code for code in codes if code), 0)
    try:
        conclude(run_dir, Ended(exit_code=worst), launch=config.launch, oom_kills=0)
    finally:
        os._exit(0)


def output_of(run_dir: Path) -> Path:
    """Return where a run's words go: not to its own disk, which may be full."""
    return Path(tempfile.gettempdir()) / f"fuzz-{os.getuid()}-{run_dir.name}.txt"


def pass_on(workers: list[int]) -> None:
    """Send SIGTERM to every worker that is there, as run_supervised does."""
    for worker in workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGTERM)


def fork_worker(run_dir: Path, rank: int, ranks: int, port: str) -> int:
    """Fork a rank that does what `python -m sft_app.training.worker` does; return its process."""
    process = os.fork()
    if process:
        return process
    die_with_parent()
    if ranks > 1:
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks),
            "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
        }  # fmt: skip
    let_clock_jump(run_dir)
    from sft_app.training import worker

    worker.main(run_dir / "config.yaml")
    os._exit(0)


def after_training(run_dir: Path) -> bool:
    """Tell whether the last step has been taken."""
    try:
        return "train" in read_result(run_dir).seconds
    except ValueError:
        return False


def steps_of(run_dir: Path) -> int:
    """Return how many steps the run has logged."""
    line = last_line(run_dir)
    return line.step if line is not None else 0


def wait(worker: int, workers: list[int]) -> int:
    """Return a worker's exit code (negative: a signal); what fails takes the others along."""
    code = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    if code:
        time.sleep(0.05)
        for other in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(other, signal.SIGKILL if code == -signal.SIGKILL else signal.SIGTERM)
    return code


def digests(run_dir: Path) -> dict[str, str]:
    """Return what must be equal: weights, optimizer, and every step's loss, in its order."""
    newest = max(
        (run_dir / "checkpoints").glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1])
    )
    found = {"whole": str(damage_of(newest) or damage_of(run_dir / "model"))}
    for path in sorted([*(run_dir / "model").glob("*.safetensors"), *newest.rglob("*")]):
        if path.suffix in (".safetensors", ".pt", ".pth", ".distcp"):
            name = str(path.relative_to(run_dir))
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").open()]
    found["steps"] = str([(line["step"], line["loss"], line["total_tokens"]) for line in lines])
    result = read_result(run_dir)
    found["evaluation"] = str(result.evaluation_after)
    return found


def main() -> None:
    """Run the rounds that were asked for, and exit with 1 when one differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most-kills", type=int, default=8, help="in one round")
    every = {fault.name: fault for fault in (*FAULTS, FULL_DISK)}
    parser.add_argument(
        "--faults", default=",".join(fault.name for fault in FAULTS), help="which, with commas; "
        f"{FULL_DISK.name} is another, where FOLDER is a file system of its own",
    )  # fmt: skip
    parser.add_argument("folder", type=Path, help="where the runs go, and their inputs are made")
    parser.add_argument("overrides", nargs="*", help="settings beside those of the small run")
    arguments = parser.parse_intermixed_args()
    arguments.folder = arguments.folder.absolute()
    if FULL_DISK.name in arguments.faults and not arguments.folder.is_mount():
        parser.error(f"{FULL_DISK.name}: {arguments.folder} is no file system of its own")
    os.environ["SFT_CACHE_DIR"] = str(arguments.folder / "cache")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from tests.fuzz.small_run import small_run

    config = small_run(arguments.folder, arguments.ranks, arguments.overrides)
    from sft_app.training import run_training as heavy  # paid for once, before anything is forked

    assert heavy
    tally = run_rounds(
        config,
        arguments.folder,
        arguments.rounds,
        seed=arguments.seed,
        ranks=arguments.ranks,
        most_kills=arguments.most_kills,
        faults=tuple(every[name] for name in arguments.faults.split(",")),
    )
    print(tally)
    sys.exit(tally.equal != tally.rounds)


if __name__ == "__main__":
    main()
