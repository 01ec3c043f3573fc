"""What a job of a sweep is told about the screen that it shares with the others."""

import atexit
import tempfile
from functools import cache
from pathlib import Path

from sft_app.records.run_files import JOB_LABEL, WARNINGS_SHOWN


def screen_environment(label: str | None) -> dict[str, str]:
    """Return environment variables for a worker; none for a run of its own, without a label."""
    if label is None:
        return {}
    return {JOB_LABEL: label, WARNINGS_SHOWN: str(_shared_file())}


@cache
def _shared_file() -> Path:
    """Make the file for the jobs that this process runs; it goes with the process."""
    with tempfile.NamedTemporaryFile(prefix="sft-warnings-", delete=False) as file:
        path = Path(file.name)
    atexit.register(path.unlink, missing_ok=True)
    return path
