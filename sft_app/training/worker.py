"""One worker process (rank) of a job: `python -m sft_app.training.worker RUN_DIR/config.yaml`.

The same command works below torchrun by hand. The heavy imports come after the process has tied
its life to its parent's.
"""

import os
import sys
from pathlib import Path

from sft_app.common.console import RUN, guard_console
from sft_app.common.errors import ConfigError
from sft_app.common.imports import UNUSED, lean_imports
from sft_app.common.processes import die_with_parent
from sft_app.compat.python_internals import SECONDS_AFTER_A_FAILURE, end_process
from sft_app.config.schema.adapter import AdapterMethod
from sft_app.config.schema.app import load_config
from sft_app.records.failure import record_failure
from sft_app.records.result import Status
from sft_app.training.experiment_trackers import tell_trackers

EXIT_FAILED = 1


def main(config_path: Path) -> None:
    """Train as `config_path` says; what fails is recorded for the parent, and ends with 1.

    A signal that was noticed while training ends with 128 and its number.
    """
    run_dir = config_path.parent
    rank = int(os.environ.get("RANK", "0"))
    try:
        config = load_config(config_path)
        no_adapter = config.adapter.method is AdapterMethod.none
        with lean_imports(*UNUSED, *(["peft"] if no_adapter else [])):
            from sft_app.training.run_training import run_training

        run_training(config, run_dir)
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:  # torch's CheckpointException is no Exception
        status = status_of(error)
        remedies = way_out(config_path) if status is Status.out_of_memory else None
        record_failure(run_dir, error, rank=rank, status=status, way_out=remedies)
        if status is not Status.interrupted and not isinstance(error, ConfigError):
            import logging

            logging.getLogger("sft_app.failure").exception("rank %d failed", rank)
        tell_trackers(status)
        end_process(getattr(error, "exit_code", EXIT_FAILED), within=SECONDS_AFTER_A_FAILURE)
    end_process(0)


def status_of(error: BaseException) -> Status:
    """Tell a signal, memory that ran out, and everything else apart."""
    from sft_app.training.guards.memory_errors import is_out_of_memory
    from sft_app.training.guards.stop_signals import Interrupted

    if isinstance(error, Interrupted):
        return Status.interrupted
    return Status.out_of_memory if is_out_of_memory(error) else Status.failed


def way_out(config_path: Path) -> str | None:
    """Say what takes less memory than this run; None where it cannot be estimated any more."""
    from sft_app.training.guards.explain_out_of_memory import explain_out_of_memory

    try:
        return explain_out_of_memory(load_config(config_path))
    except Exception:
        import logging

        logging.getLogger("sft_app.failure").exception("no remedies could be estimated")
        return None


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m sft_app.training.worker RUN_DIR/config.yaml")
    die_with_parent()
    guard_console(RUN)
    main(Path(sys.argv[1]))
