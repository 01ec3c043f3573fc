"""After the last job of a sweep: the table of all jobs, sweep.csv and report.html."""

from rich.console import Console

from sft_app.launch.sweep.leave_sweep import leave
from sft_app.launch.sweep.prepare_sweep import Sweep
from sft_app.reporting.sweep.cells import collect_sweep
from sft_app.reporting.sweep.sweep_csv import write_sweep_csv
from sft_app.reporting.sweep.sweep_report import write_sweep_report
from sft_app.reporting.terminal import print_sweep

WIDTH_IN_A_FILE = 200


def end_sweep(sweep: Sweep, *, interrupted: bool) -> bool:
    """Show and write what the sweep came to; returns whether every job completed."""
    leave(sweep, interrupted=interrupted)
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH_IN_A_FILE)
    cells = collect_sweep(sweep.directory)
    print_sweep(cells, console)
    for path in (write_sweep_csv(sweep.directory, cells),
                 write_sweep_report(sweep.directory, None, cells)):  # fmt: skip
        print(path)
    own = {cell.name for cell in sweep.cells}
    return all(cell.is_completed for cell in cells if cell.name in own)
