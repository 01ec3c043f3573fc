"""sft-report: what a run, or a sweep, has come to; at any time, from its files alone."""

import argparse
import sys
import webbrowser
from pathlib import Path

from rich.console import Console

from sft_app import api
from sft_app.api import make_callable
from sft_app.common.console import guard_console
from sft_app.common.errors import ConfigError
from sft_app.config.schema.sweep import BestBy
from sft_app.records.evaluation_file import read_evaluation
from sft_app.reporting.run.evaluation_report import is_evaluation, write_evaluation_report
from sft_app.reporting.run.evaluation_text import evaluation_lines
from sft_app.reporting.run.find_runs import Found, find
from sft_app.reporting.run.read_run import is_run, read_run
from sft_app.reporting.sweep.cells import collect_sweep
from sft_app.reporting.terminal.compare_runs import print_comparison
from sft_app.reporting.terminal.list_runs import print_list
from sft_app.reporting.terminal.plain_text import plain
from sft_app.reporting.terminal.print_run import print_run
from sft_app.reporting.terminal.print_sweep import print_sweep

WIDTH_IN_A_FILE = 1000
OF_A_SWEEP = ("price_per_gpu_hour", "best_by")
"""Options that the report of a sweep alone heeds."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 1 (cannot be written) or 2 (bad input)."""
    guard_console()
    options = _parser().parse_args(arguments)
    # Piped into a file, a table keeps its columns.
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH_IN_A_FILE)
    for directory in options.directories:
        if not directory.is_dir():
            return _complain(f"{directory} is not a directory.")
    if len(options.directories) > 1:
        _say_unused(options, "the comparison of several runs", "leaderboard", "open", *OF_A_SWEEP)
        return _compare(options.directories, console)
    directory = options.directories[0]
    if options.leaderboard:
        _say_unused(options, "a leaderboard", "open", *OF_A_SWEEP)
        return _leaderboard(directory, console)
    if is_evaluation(directory):
        _say_unused(options, "an evaluation", "open", *OF_A_SWEEP)
        return _report_evaluation(directory, console)
    found = find(directory)
    if found is None:
        return _complain(f"There is no run in {directory}: no config.yaml, result.json or .hydra/.")
    if found.chosen_from > 1:
        print_list(found, directory, console)
        kind = "sweep" if found.is_sweep else "run"
        message = f"The newest of {found.chosen_from} runs and sweeps is the {kind} "
        console.print()
        console.print(plain(f"{message}{found.directory}"), soft_wrap=True)
    if not found.is_sweep:
        _say_unused(options, "a single run", *OF_A_SWEEP)
    try:
        written = _report(found, options.price_per_gpu_hour, options.best_by, console)
    except OSError as error:
        return _complain(f"The report cannot be written: {error}.", code=1)
    for path in written:
        console.print(plain(str(path)), soft_wrap=True)
    if options.open:
        webbrowser.open(written[-1].absolute().as_uri())
    return 0


def _say_unused(options: argparse.Namespace, what: str, *names: str) -> None:
    for name in names:
        if getattr(options, name) not in (None, False):
            words = f"--{name.replace('_', '-')}"
            print(f"sft-report: {words} has no effect on {what}.", file=sys.stderr)


def _leaderboard(directory: Path, console: Console) -> int:
    from sft_app.reporting.leaderboard.leaderboard_page import write_leaderboard

    try:
        for path in write_leaderboard(directory):
            console.print(plain(str(path)), soft_wrap=True)
    except (ConfigError, OSError) as error:
        return _complain(f"{error}", code=1)
    return 0


def _report_evaluation(directory: Path, console: Console) -> int:
    try:
        for line in evaluation_lines(read_evaluation(directory)):
            console.print(plain(line), soft_wrap=True)
        console.print(plain(str(write_evaluation_report(directory))), soft_wrap=True)
    except (ValueError, OSError) as error:
        return _complain(f"{error}.", code=1)
    return 0


def _compare(directories: list[Path], console: Console) -> int:
    for directory in directories:
        if not is_run(directory):
            return _complain(
                f"{directory} is no run (no config.yaml, result.json or .hydra/ in it): give one "
                "directory to report on, or several runs to compare."
            )
    print_comparison(directories, console)
    return 0


def _report(
    found: Found, price: float | None, best_by: BestBy | None, console: Console
) -> list[Path]:
    """Print the short form first: figures take a moment, and the numbers are there at once."""
    if found.is_sweep:
        cells = collect_sweep(found.directory, price)
        print_sweep(found.directory, cells, console, best_by)
        from sft_app.reporting.sweep.sweep_csv import write_sweep_csv
        from sft_app.reporting.sweep.sweep_report import write_sweep_report

        return [
            write_sweep_csv(found.directory, cells),
            write_sweep_report(found.directory, price, cells, best_by),
        ]
    print_run(read_run(found.directory), console)
    from sft_app.reporting.run.run_report import write_run_report

    return [write_run_report(found.directory)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sft-report",
        description="Print the state of a run or a sweep, and write its report.html (and, for a "
        "sweep, sweep.csv). Works while jobs are running.",
    )
    parser.add_argument(
        "directories",
        metavar="DIR",
        type=Path,
        nargs="+",
        help="a run, a sweep, or a folder of many such as outputs/, which are listed before the "
        "newest is reported; several runs: compare them",
    )
    parser.add_argument(
        "--price-per-gpu-hour",
        metavar="X",
        type=_price,
        help="adds what each cell of a sweep cost, in the currency of X",
    )
    parser.add_argument(
        "--best-by",
        type=BestBy,
        choices=list(BestBy),
        help="what names the best cell of a sweep; default: as it was started with (sweep.best_by)",
    )
    parser.add_argument(
        "--leaderboard",
        action="store_true",
        help="of a sweep over methods, lengths, budgets and seeds: write leaderboard.html and "
        "leaderboard.json: recovery tokens, effective length, what was lost, which differences are "
        "larger than the spread over seeds",
    )
    parser.add_argument("--open", action="store_true", help="show the report in a browser")
    return parser


def _price(text: str) -> float:
    price = float(text)
    if not 0 <= price < float("inf"):
        raise ValueError
    return price


def _complain(message: str, code: int = 2) -> int:
    print(f"sft-report: {message}", file=sys.stderr)
    return code


make_callable(__name__, api.report)  # sft_app.report(...), from Python

if __name__ == "__main__":
    sys.exit(main())
