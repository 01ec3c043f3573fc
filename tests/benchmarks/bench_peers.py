"""(13) The same small fine-tuning, done by sft_app and by other trainers in turn, on one thread.

    python -m tests.benchmarks.bench_peers FOLDER_OF_ENVIRONMENTS [--rounds 3] [--only NAME ...]

The folder holds a virtual environment for each peer; one that is missing is left out, by name. Made
with `python3 -m venv NAME`, then in each `pip install torch==2.13.0` (the build for CPUs), and with
`-c` of a file that says `torch==2.13.0`:

    llamafactory   pip install llamafactory==0.9.5, then, since these come for CUDA alone:
                   pip uninstall torchvision; rm .../site-packages/torchaudio/lib/*.so
    torchtune      pip install torchtune==0.6.1 torchao==0.14.1
    trl            pip install trl==1.16.0
    axolotl        pip install axolotl==0.19.0
    fastchat       pip install transformers==4.57.3 accelerate sentencepiece protobuf psutil \\
                       requests; pip install --no-deps fschat==0.2.36 (it asks for flash-attn)

All train a Llama of 20M parameters with random weights for one epoch on 32 real conversations that
fit a row of 1,024 tokens, one row a step (FastChat, which cannot pack: two), each with the command
that its users type. Training is from the start of the first step to the end of the last, in CPU
seconds of its process; the start is what all its processes have taken until then. Caches are empty.
sft_app is run without its evaluation, which the others lack, and once more without the check of
what it has saved, which they lack as well.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.measuring import write_table
from tests.benchmarks.peers.programs import OURS, PEERS, WITHOUT_VERIFYING, Program

MARKS = Path(__file__).with_name("peers") / "marks"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")


@dataclass(frozen=True)
class Run:
    """What one run of one program took."""

    startup_cpu: float
    training_cpu: float
    process_cpu: float
    peak_megabytes: float
    """Of the largest of its processes."""
    steps: int
    supervised: int
    losses: list[float]

    @property
    def speed(self) -> float:
        """Supervised tokens per CPU second of training."""
        return self.supervised / self.training_cpu


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("environments", type=Path, nargs="?")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="these peers alone")
    args, _ = parser.parse_known_args()
    if args.environments is None:
        print(
            "Needs a folder with an environment for each peer: its docstring says how it is made."
        )
        return
    asked = [peer for peer in PEERS if args.only is None or peer.environment in args.only]
    there = [peer for peer in asked if directory(peer, args.environments).is_dir()]
    with tempfile.TemporaryDirectory() as folder:
        runs = take_turns_of([OURS, WITHOUT_VERIFYING, *there], args, Path(folder))
    best = max((median(runs[peer.name], "speed") for peer in there), default=None)
    versions = {peer.name: version(peer, args.environments) for peer in there}
    rows = [row(name, versions.get(name, ""), taken, best) for name, taken in runs.items()]
    rows += [{"program": f"{peer.name}: no environment"} for peer in asked if peer not in there]
    write_table(
        "peers",
        f"One small fine-tuning by several programs, {args.rounds} rounds in turn, one thread",
        rows,
        goal="2 times the supervised tokens per training CPU second of the best peer",
    )


def take_turns_of(
    programs: list[Program], args: argparse.Namespace, work: Path
) -> dict[str, list[Run]]:
    from tests.benchmarks.peers.job import make_job

    job = make_job(work)
    runs: dict[str, list[Run]] = {program.name: [] for program in programs}
    for number in range(args.rounds):
        for program in programs:
            with tempfile.TemporaryDirectory(dir=work) as folder:
                command = program.write(job, Path(folder), directory(program, args.environments))
                run = run_once(program, command, Path(folder))
            runs[program.name].append(run)
            print(f"round {number + 1}: {program.name}: {run}", file=sys.stderr, flush=True)
    return runs


def run_once(program: Program, command: Any, folder: Path) -> Run:
    marks, log = folder / "marks.json", folder / "log.txt"
    environment = {
        **os.environ, **dict.fromkeys(THREADS, "1"),
        "PYTHONPATH": str(MARKS), "PEERS_MARKS": str(marks), "PEERS_ROOT": str(os.getpid()),
        "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf"), "CUDA_VISIBLE_DEVICES": "",
        "TOKENIZERS_PARALLELISM": "false", "WANDB_MODE": "disabled",
        "AXOLOTL_DO_NOT_TRACK": "1", "DO_NOT_TRACK": "1",
    }  # fmt: skip
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = code = os.waitstatus_to_exitcode(status)
    if code not in program.ends_with or not marks.is_file():
        sys.exit(f"{program.name} ended with {code}:\n{log.read_text()[-5000:]}")
    return Run(
        **json.loads(marks.read_text()),
        process_cpu=usage.ru_utime + usage.ru_stime,
        peak_megabytes=usage.ru_maxrss / 1024,
    )


def row(name: str, version: str, runs: list[Run], best: float | None) -> dict[str, Any]:
    speeds = [run.speed for run in runs]
    speed = statistics.median(speeds)
    return {
        "program": f"{name} {version}".strip(),
        "supervised tokens": runs[0].supervised,
        "steps": runs[0].steps,
        "supervised tokens per training CPU s": round(speed),
        "from ... to": f"{min(speeds):.0f} ... {max(speeds):.0f}",
        "of the best peer": None if best is None else speed / best,
        "training CPU s": median(runs, "training_cpu"),
        "start CPU s": median(runs, "startup_cpu"),
        "process CPU s": median(runs, "process_cpu"),
        "peak MB": round(median(runs, "peak_megabytes")),
        "loss": f"{runs[0].losses[0]:.3f} -> {runs[0].losses[-1]:.3f}",
    }


def median(runs: list[Run], field: str) -> float:
    return statistics.median(getattr(run, field) for run in runs)


def directory(program: Program, environments: Path) -> Path:
    """Where the commands of its environment are."""
    if program.environment is None:
        return Path(sys.executable).parent
    return environments.resolve() / program.environment / "bin"


def version(program: Program, environments: Path) -> str:
    ask = f"from importlib.metadata import version; print(version({program.package!r}))"
    python = directory(program, environments) / "python"
    asked = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True)
    return asked.stdout.strip()


if __name__ == "__main__":
    main()
