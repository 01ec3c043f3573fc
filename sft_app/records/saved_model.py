"""Whether the model that stands in a run's directory is what its record speaks of."""

from pathlib import Path

from sft_app.records.result import RunResult, read_result
from sft_app.records.run_files import MODEL

SAVING = "save"
"""The phase of a start that writes the model."""


def saved_by_last_start(result: RunResult) -> bool:
    """Tell whether the start that a record is about has written the model."""
    return SAVING in result.seconds


def told_of_earlier(run_dir: Path) -> str | None:
    """Say in words that a run's model is what an earlier start left; None where it is not.

    A complete run that is made longer has its model until there is another one. Where the longer
    one fails, that model is nothing that its record, its settings and its log speak of.
    """
    if not (run_dir / MODEL).is_dir():
        return None
    try:
        result = read_result(run_dir)
    except ValueError:  # no run's directory
        return None
    if saved_by_last_start(result):
        return None
    return (
        f"the last start of {run_dir} has saved no model (status {result.status}): {MODEL}/ is "
        "what an earlier one left."
    )
