"""Where a worker's log lines go: everything to train.log, the first screen's worth to the screen.

A line is `label           text`, the label in the first 16 columns. The screen wraps it to a
terminal's width, marks warnings in words and, on a terminal, in colour.
"""

import logging
import os
import re
import shutil
import sys
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path

import transformers

from sft_app.common.secrets import HideSecrets
from sft_app.records.run_files import JOB_LABEL, LOG, WARNINGS_SHOWN

DETAILS = "sft_app.details"
"""Logger of what only train.log shows: whole plans, and step lines while a bar is on the screen."""

FILE_ONLY = ("sft_app.failure", "py.warnings", DETAILS)
"""Loggers kept off the screen: a failure's traceback (the parent shows its cause, once), and the
libraries' warnings to programmers."""

QUIET_BELOW_WARNING = (
    "sft_app.data.read.conversation_reader",
    "sft_app.data.store.token_cache",
)
"""Loggers whose INFO repeats, on a screen, what the first lines of a run have said."""

JOB_LINE = "sft_app.job"
"""Logger of the one line that a job of a sweep shows when it begins."""

LABEL_WIDTH = 16
_NUMBER = re.compile(r"\d[\d.,]*")
_LABEL = re.compile(r"^([\w][\w .-]{0,14}?)\s{2,}(?=\S)")


def set_up_logging(run_dir: Path, rank: int) -> None:
    """Send everything to train.log, and rank 0's INFO to the screen as plain lines.

    The other ranks speak up from WARNING on, with their rank. A job of a sweep shows one line.
    """
    file = logging.FileHandler(run_dir / LOG, encoding="utf-8")
    file.setFormatter(
        logging.Formatter(f"%(asctime)s rank {rank} %(levelname)s %(name)s: %(message)s")
    )
    file.addFilter(lambda record: rank == 0 or record.levelno >= logging.WARNING)
    screen = logging.StreamHandler(sys.stdout)
    on_terminal = sys.stdout.isatty()
    screen.setFormatter(
        ScreenLines(
            rank, width=shutil.get_terminal_size().columns if on_terminal else None,
            colour=on_terminal and "NO_COLOR" not in os.environ,
        )
    )  # fmt: skip
    for handler in (file, screen):
        handler.addFilter(HideSecrets())
    screen.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    one_line = bool(os.environ.get(JOB_LABEL))
    screen.addFilter(lambda record: _is_for_the_screen(record, one_line=one_line))
    screen.addFilter(_once())
    if WARNINGS_SHOWN in os.environ:
        screen.addFilter(once_in_a_sweep(Path(os.environ[WARNINGS_SHOWN])))
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


class ScreenLines(logging.Formatter):
    """Formats a record for people: wrapped to `width` columns, warnings marked."""

    def __init__(self, rank: int, *, width: int | None, colour: bool) -> None:
        """Take the rank, a terminal's columns (None: no wrapping), and whether it has colours."""
        super().__init__("%(message)s" if rank == 0 else f"[rank {rank}] %(message)s")
        self.width = width
        self.colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's lines."""
        text = super().format(record)
        if record.levelno >= logging.WARNING:
            text = f"{'WARNING':<{LABEL_WIDTH}}" + _LABEL.sub(r"\1: ", text)
        if self.width is not None:
            text = "\n".join(wrap(line, self.width) for line in text.splitlines())
        if record.levelno >= logging.WARNING and self.colour:
            text = f"\033[33m{text}\033[0m"
        return text


def wrap(line: str, width: int) -> str:
    """Break a line at `width` columns; what follows stands below the text, not the label."""
    indent = LABEL_WIDTH if width >= 3 * LABEL_WIDTH else 2
    if len(line) <= width:
        return line
    return textwrap.fill(
        line, width, subsequent_indent=" " * indent, break_on_hyphens=False,
        break_long_words=False, drop_whitespace=True,
    )  # fmt: skip


def _once() -> Callable[[logging.LogRecord], bool]:
    """Return a filter for decisions that a later stage confirms in the same words."""
    shown: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        is_repeated = message in shown
        shown.add(message)
        return not is_repeated

    return is_new


def once_in_a_sweep(shown: Path) -> Callable[[logging.LogRecord], bool]:
    """Return a filter for warnings that an earlier job of the sweep has shown.

    Numbers make no difference: the same warning at each context length is one. Every train.log has
    its own. `shown`: a file that the jobs share.
    """

    def is_new(record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        kind = _NUMBER.sub("#", " ".join(record.getMessage().split()))
        try:
            if kind in shown.read_text(encoding="utf-8").splitlines():
                return False
            with shown.open("a", encoding="utf-8") as file:
                file.write(f"{kind}\n")
        except OSError:
            return True  # said twice rather than not at all
        return True

    return is_new


def _is_for_the_screen(record: logging.LogRecord, *, one_line: bool) -> bool:
    if record.name in FILE_ONLY:
        return False
    if record.levelno >= logging.WARNING:
        # Of texts that are cut to the context afterwards, as data.overlong says.
        return not record.getMessage().startswith("Token indices sequence length is longer")
    if one_line or record.name == JOB_LINE:
        return one_line and record.name == JOB_LINE
    return record.name not in QUIET_BELOW_WARNING
