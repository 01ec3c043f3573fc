"""On PYTHONPATH, this makes workers pretend: the real processes, launchers and files, no training.

Python imports a module of this name at every start. A worker then notes where it ran instead of
training, so that a test of who runs where, and when, does not pay for torch in every process.
Seed 13 fails; PRETEND_SECONDS is how long a job takes, PRETEND_MEMORY how long a context fits.
"""

import atexit
import json
import os
import sys
import time
import types
from datetime import datetime


def run_training(config, run_dir):
    from sft_app.records.result import Status, read_result

    started = time.time()
    rank = os.environ.get("RANK", "0")
    note = {
        "devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "world_size": os.environ.get("WORLD_SIZE", "1"),
        "node": os.environ.get("SLURMD_NODENAME"),
        "pid": os.getpid(),
        "started": started,
    }
    write_note(run_dir, rank, note)
    track(run_dir)
    with (run_dir / "starts").open("a") as starts:
        starts.write("x")
    if config.seed == 13:
        raise OSError("the disk is on fire")
    if config.context_length > int(os.environ.get("PRETEND_MEMORY", 2**62)):
        raise MemoryError("no room for that many tokens")
    time.sleep(float(os.environ.get("PRETEND_SECONDS", "2")))
    write_note(run_dir, rank, {**note, "ended": time.time()})
    if rank == "0":
        result = read_result(run_dir)
        result.status = Status.completed
        result.seconds["total"] = time.time() - started
        result.finished_at = datetime.now().astimezone().isoformat()
        result.write(run_dir)


def track(run_dir):
    """Learn how the run ends as W&B does: from sys.exit, and at the end from an exit function."""
    exits, sys_exit = [0], sys.exit

    def noting_exit(code=0):
        exits.append(code)
        sys_exit(code)

    sys.exit = noting_exit
    atexit.register(lambda: (run_dir / "tracked").write_text(str(exits[-1])))


def write_note(run_dir, rank, note):
    partial = run_dir / f".note-{rank}"
    partial.write_text(json.dumps(note))
    partial.replace(run_dir / f"note-{rank}.json")


if {"sft_app.training.worker", "sft_app.training.run_training"} & set(sys.orig_argv):
    pretended = types.ModuleType("sft_app.training.run_training")
    vars(pretended)["run_training"] = run_training
    sys.modules["sft_app.training.run_training"] = pretended
