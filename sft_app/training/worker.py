"""One worker process (rank) of a job: `python -m sft_app.training.worker RUN_DIR/config.yaml`.

The same command works below torchrun by hand. The heavy imports come after the process has tied
its life to its parent's.
"""

import os
import sys
from pathlib import Path
from typing import NoReturn

from sft_app.common.console import guard_console
from sft_app.common.errors import ConfigError
from sft_app.common.imports import lean_imports
from sft_app.common.processes import die_with_parent
from sft_app.config.schema.adapter import AdapterMethod
from sft_app.config.schema.app import load_config
from sft_app.records.failure import record_failure
from sft_app.records.result import Status

EXIT_FAILED = 1


def main(config_path: Path) -> None:
    """Train as `config_path` says; what fails is recorded for the parent, and ends with 1.

    A signal that was noticed while training ends with 128 and its number.
    """
    run_dir = config_path.parent
    rank = int(os.environ.get("RANK", "0"))
    try:
        config = load_config(config_path)
        # `datasets` reads hub data sets later, if there are any; the Trainer has no use for it.
        no_adapter = config.adapter.method is AdapterMethod.none
        with lean_imports("datasets", *(["peft"] if no_adapter else [])):
            from sft_app.training.run_training import run_training

        run_training(config, run_dir)
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:  # torch's CheckpointException is no Exception
        status = status_of(error)
        record_failure(run_dir, error, rank=rank, status=status)
        if status is not Status.interrupted and not isinstance(error, ConfigError):
            import logging

            logging.getLogger("sft_app.failure").exception("rank %d failed", rank)
        end_now(getattr(error, "exit_code", EXIT_FAILED))


def status_of(error: BaseException) -> Status:
    """Tell a signal, memory that ran out, and everything else apart."""
    from sft_app.training.guards.stop_signals import Interrupted

    if isinstance(error, Interrupted):
        return Status.interrupted
    return Status.out_of_memory if is_out_of_memory(error) else Status.failed


def is_out_of_memory(error: BaseException) -> bool:
    """Know CUDA's and the CPU allocator's own words for it; torch has a type for CUDA only."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    words = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDA error: out of memory")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def end_now(exit_code: int) -> NoReturn:
    """End without waiting: other ranks may never answer what a clean exit waits for."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m sft_app.training.worker RUN_DIR/config.yaml")
    die_with_parent()
    guard_console()
    main(Path(sys.argv[1]))
