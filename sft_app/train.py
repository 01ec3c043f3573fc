"""sft-train: compose the configuration once, then run it in worker processes."""

import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console

from sft_app import api
from sft_app.api import make_callable
from sft_app.common.console import RUN, guard_console
from sft_app.common.errors import ConfigError
from sft_app.config.command_line import prepare_arguments
from sft_app.config.hydra_callback import run_task
from sft_app.config.one_sentence import exit_with_message
from sft_app.config.schema.app import register_schema, to_typed
from sft_app.launch.job.fresh_pages import FreshPage
from sft_app.launch.job.job_errors import JobFailed, JobInterrupted
from sft_app.launch.job.job_lock import only_one
from sft_app.launch.job.messages import closing, from_here, sweep_job_closing
from sft_app.launch.job.outer_launcher import refuse_outer_launcher
from sft_app.launch.job.prepare_run import PrepareRun, as_started
from sft_app.launch.job.run_job import run_job
from sft_app.launch.nodes.nodes import invite
from sft_app.launch.sweep.job_label import job_label, time_left
from sft_app.launch.sweep.leave_sweep import leave
from sft_app.launch.sweep.prepare_sweep import PrepareSweep, Sweep
from sft_app.launch.sweep.run_sweep_job import run_sweep_job
from sft_app.records.paste_lines import go_on_with
from sft_app.reporting.halving.places import places
from sft_app.reporting.run.run_report import write_run_report
from sft_app.reporting.sweep.cells import collect_sweep
from sft_app.reporting.sweep.sweep_csv import write_sweep_csv
from sft_app.reporting.sweep.sweep_report import write_sweep_report
from sft_app.reporting.terminal.print_sweep import print_sweep
from sft_app.serving.model_card import write_model_card

WIDTH_IN_A_FILE = 200
"""Columns of the sweep's table where the output is no terminal."""


def main() -> None:
    """Run the command; exits with 0, 1 (a job failed), 2 (bad input), 130 or 143 (a signal)."""
    guard_console()
    try:
        refuse_outer_launcher()
    except ConfigError as error:
        exit_with_message(error)
    prepare_arguments(sys.argv)
    register_schema()
    PrepareRun.wanted = True
    PrepareSweep.refresh = SWEEP_PAGE.refresh
    sys.exit(_train_and_conclude())


def _train_and_conclude() -> int | str | None:
    """Conclude a sweep here: Hydra ends it by returning, or by SystemExit when a job raised."""
    exit_code: int | str | None = 0
    try:
        run_task(train)
    except JobInterrupted as interruption:
        exit_code = interruption.exit_code
    except KeyboardInterrupt:  # between two jobs, or while others run them
        exit_code = 130
    except SystemExit as end:
        exit_code = end.code
    if PrepareSweep.sweep is not None:
        complete = end_sweep(PrepareSweep.sweep, interrupted=exit_code not in (0, 1, None))
        return exit_code or int(not complete)
    return exit_code


@hydra.main(version_base="1.3", config_path="pkg://sft_app.conf", config_name="config")
def train(config: DictConfig) -> None:
    """Run one job, in the directory that Hydra made for it."""
    guard_console(RUN)
    hydra_config = HydraConfig.get()
    run_dir = Path(hydra_config.runtime.output_dir)
    if hydra_config.mode is RunMode.MULTIRUN:
        os.chdir(hydra_config.runtime.cwd)  # a Ray worker starts elsewhere
        train_sweep_job(config, run_dir)
        return
    try:
        typed = as_started(to_typed(config))
        with only_one(run_dir):
            run_id = invite(typed.launch, run_dir) if typed.launch.nnodes > 1 else None
            page = FreshPage(lambda: write_run_report(run_dir))
            refresh = None if typed.launch.node_rank else page.refresh  # node 0 alone writes
            result = run_job(typed, run_dir, run_id=run_id, refresh=refresh)
    except JobInterrupted:
        say_how_to_go_on(run_dir)
        raise
    except JobFailed as failure:
        say_how_to_go_on(run_dir)
        if not failure.is_told:
            print(f"sft-train: {failure}", file=sys.stderr)
        sys.exit(failure.exit_code)
    finally:
        report_run(run_dir)
    print(closing(result, run_dir))


def say_how_to_go_on(run_dir: Path) -> None:
    """Print the command that continues a run with a checkpoint."""
    if (line := go_on_with(from_here(run_dir))) is not None:
        print(f"Next, to go on from its newest checkpoint:\n  {line}", file=sys.stderr)


def train_sweep_job(config: DictConfig, run_dir: Path) -> None:
    """Run one job of a sweep; a failure is told, recorded, and lets the others run."""
    overrides = [str(override) for override in HydraConfig.get().overrides.task]
    sweep = PrepareSweep.sweep  # None on a Ray worker, say
    jobs = sweep.jobs if sweep else ()
    label = job_label(jobs, run_dir) if jobs else None
    try:
        warm = sweep.warm if sweep else None
        page = FreshPage(lambda: write_run_report(run_dir))

        def refresh() -> None:
            page.refresh()
            SWEEP_PAGE.refresh()

        result = run_sweep_job(
            to_typed(config), run_dir, overrides, label, warm=warm, refresh=refresh, judge=places
        )
    except JobInterrupted:
        report_run(run_dir)
        raise
    if result is not None:
        report_run(run_dir)
        name = label.partition(" ")[0] if label else run_dir.name
        print(sweep_job_closing(result, name, time_left(jobs)), flush=True)


def write_sweep_page() -> None:
    """Write report.html and sweep.csv of the sweep that this process runs, if it runs one."""
    if PrepareSweep.sweep is not None:
        directory = PrepareSweep.sweep.directory
        cells = collect_sweep(directory)
        write_sweep_csv(directory, cells)
        write_sweep_report(directory, None, cells)


SWEEP_PAGE = FreshPage(write_sweep_page)
"""The page of the sweep that this process runs: one for all its jobs."""


def report_run(run_dir: Path) -> None:
    """Write report.html and the model's card; what prevents it must not hide how the run ended."""
    try:
        write_run_report(run_dir)
        write_model_card(run_dir)
    except Exception as error:  # such as a full disk, or a folder that somebody has deleted
        print(f"sft-train: no report was written: {error}", file=sys.stderr)


def end_sweep(sweep: Sweep, *, interrupted: bool) -> bool:
    """Show and write what the sweep came to; returns whether every job completed."""
    leave(sweep, interrupted=interrupted)
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH_IN_A_FILE)
    cells = collect_sweep(sweep.directory)
    print_sweep(sweep.directory, cells, console)
    for path in (write_sweep_csv(sweep.directory, cells),
                 write_sweep_report(sweep.directory, None, cells)):  # fmt: skip
        print(path)
    own = {cell.name for cell in sweep.jobs}
    return all(cell.status in ("completed", "dropped") for cell in cells if cell.name in own)


make_callable(__name__, api.train)  # sft_app.train(...), from Python

if __name__ == "__main__":
    main()
