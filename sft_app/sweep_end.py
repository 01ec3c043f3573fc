"""After the last job of a sweep: the table of all jobs, sweep.csv, report.html, the exit code."""

from sft_app.launch.sweep import Sweep
from sft_app.records.result import Status, read_result


def end_sweep(sweep: Sweep) -> bool:
    """Show and write what the sweep came to; returns whether a job has not completed."""
    statuses = {}
    for cell in sweep.cells:
        try:
            statuses[cell.name] = read_result(cell.run_dir).status
        except ValueError:
            statuses[cell.name] = Status.pending
    for name, status in statuses.items():
        print(f"{status:<14} {name}")
    return any(status is not Status.completed for status in statuses.values())
