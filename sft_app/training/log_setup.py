"""Where a worker's log lines go: everything to train.log, rank 0's to the screen as well."""

import logging
import sys
import warnings
from pathlib import Path

import transformers

from sft_app.records.run_files import LOG

FILE_ONLY = ("sft_app.failure", "py.warnings")
"""Loggers kept off the screen: a failure's traceback (the parent shows its cause, once), and the
libraries' warnings to programmers."""


def set_up_logging(run_dir: Path, rank: int) -> None:
    """Send everything to train.log, and rank 0's INFO to the screen as plain lines.

    The other ranks speak up from WARNING on, with their rank.
    """
    file = logging.FileHandler(run_dir / LOG, encoding="utf-8")
    file.setFormatter(
        logging.Formatter(f"%(asctime)s rank {rank} %(levelname)s %(name)s: %(message)s")
    )
    file.addFilter(lambda record: rank == 0 or record.levelno >= logging.WARNING)
    screen = logging.StreamHandler(sys.stdout)
    screen.setFormatter(
        logging.Formatter("%(message)s" if rank == 0 else f"[rank {rank}] %(message)s")
    )
    screen.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    screen.addFilter(lambda record: record.name not in FILE_ONLY)
    root = logging.getLogger()
    root.handlers = [file, screen]
    root.setLevel(logging.WARNING)
    logging.getLogger("sft_app").setLevel(logging.INFO)
    transformers.logging.disable_default_handler()
    transformers.logging.enable_propagation()
    transformers.logging.set_verbosity_warning()
    transformers.logging.disable_progress_bar()
    logging.captureWarnings(True)
    warnings.simplefilter("once")
