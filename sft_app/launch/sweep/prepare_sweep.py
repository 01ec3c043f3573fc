"""Before a sweep starts: every job composed, checked and named, and what is done left alone."""

import dataclasses
import re
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from sft_app.common.errors import ConfigError
from sft_app.config.hydra_callback import exit_with_message
from sft_app.config.schema.app import save_config
from sft_app.config.schema.sweep import Budget
from sft_app.launch.job.run_job import JobInterrupted, initial_result
from sft_app.launch.sweep.budget import apply_budget, describe_budget, shared_tokens_per_step
from sft_app.launch.sweep.check_job_plans import check_plans
from sft_app.launch.sweep.compose_jobs import Cell, add_task_override, compose_cells
from sft_app.launch.sweep.job_lock import is_being_run
from sft_app.launch.sweep.job_state import CellState, cell_state, set_aside
from sft_app.launch.sweep.launcher import Launcher, settle_processes, which_launcher
from sft_app.launch.sweep.ray_pool import start_pool
from sft_app.launch.sweep.slurm import prepare_slurm
from sft_app.launch.sweep.watch import Watch
from sft_app.records.result import Status
from sft_app.records.run_files import CONFIG

BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


@dataclass(frozen=True, kw_only=True)
class Sweep:
    directory: Path
    cells: tuple[Cell, ...]
    launcher: Launcher
    watch: Watch | None = None
    """None: this process runs the jobs itself, and they tell of themselves."""


class PrepareSweep(Callback):
    """Named in conf/config.yaml below hydra.callbacks. Hydra calls it before it makes any folder,
    and composes the jobs from what it leaves in the configuration."""

    sweep: ClassVar[Sweep | None] = None
    """The sweep that this process started: entry points conclude it."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            sweep = prepare_sweep(config)
        except ConfigError as error:
            exit_with_message(error)
        PrepareSweep.sweep = sweep
        if all(cell_state(c.run_dir, c.config) is CellState.done for c in sweep.cells):
            print("Nothing is left to do: every job completed with these settings.")
            sys.exit(0)
        if sweep.watch is not None:
            signal.signal(signal.SIGTERM, _interrupt)
            sweep.watch.start()


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise JobInterrupted(signal.Signals(signum))


def prepare_sweep(master: DictConfig) -> Sweep:
    """Check everything that can be checked now; only then touch the sweep's folder.

    Raises ConfigError.
    """
    _check_sweep(master)
    print("Checking the jobs of the sweep before the first one starts ...", flush=True)
    launcher = which_launcher(master)
    cells = compose_cells(master, on_slurm=launcher is Launcher.slurm)
    if launcher is not Launcher.serial:
        cells, launch = settle_processes(master, launcher, cells)
    else:
        _check_nodes(cells)
    cells = _settle(master, cells)
    _check_nobody_else(cells)
    check_plans([c for c in cells if cell_state(c.run_dir, c.config) is not CellState.done])
    if launcher is Launcher.ray:
        start_pool(master, launch)
    if launcher is Launcher.slurm:
        prepare_slurm(master, launch)
    sweep = Sweep(
        directory=cells[0].run_dir.parent,
        cells=tuple(cells),
        launcher=launcher,
        watch=None if launcher is Launcher.serial else Watch(cells),
    )
    _announce(sweep)
    _make_ready(sweep)
    return sweep


def _check_nodes(cells: list[Cell]) -> None:
    nnodes = max(cell.config.launch.nnodes for cell in cells)
    if nnodes > 1:
        raise ConfigError(
            f"launch.nnodes={nnodes}: the jobs of a sweep take several nodes on Slurm only: "
            "hydra/launcher=slurm, or launch.nnodes=1."
        )


def _check_nobody_else(cells: list[Cell]) -> None:
    for cell in cells:
        if is_being_run(cell.run_dir):
            raise ConfigError(
                f"job {cell.name} is running: this sweep was started already. Wait for it, or "
                "choose another sweep.name."
            )


def _check_sweep(master: DictConfig) -> None:
    name = master.sweep.name
    if name is not None and not re.fullmatch(r"[\w+=-][\w.+=-]*", str(name)):
        raise ConfigError(
            f"sweep.name={name} names a folder: use letters, digits and . _ - only, such as "
            "sweep.name=context_1."
        )
    if master.hydra.sweeper._target_ != BASIC_SWEEPER:
        raise ConfigError(
            f"hydra.sweeper._target_={master.hydra.sweeper._target_}: jobs are checked before the "
            "sweep starts, which takes a sweeper that knows them all: leave out hydra/sweeper."
        )


def _settle(master: DictConfig, cells: list[Cell]) -> list[Cell]:
    """What the cells share is decided here once, and becomes a setting of each of them."""
    sweep = cells[0].config.sweep
    lengths, per_step = sweep.lengths, sweep.tokens_per_step
    if not lengths:
        lengths = sorted({cell.config.context_length for cell in cells})
        add_task_override(master, f"sweep.lengths=[{','.join(map(str, lengths))}]")
    if sweep.budget is not Budget.own and per_step is None:
        per_step = shared_tokens_per_step([cell.config for cell in cells])
        add_task_override(master, f"sweep.tokens_per_step={per_step}")
    return [_with_shared(cell, lengths, per_step) for cell in cells]


def _with_shared(cell: Cell, lengths: list[int], per_step: int | None) -> Cell:
    sweep = dataclasses.replace(cell.config.sweep, lengths=lengths, tokens_per_step=per_step)
    try:
        config = apply_budget(dataclasses.replace(cell.config, sweep=sweep))
    except ConfigError as error:
        raise ConfigError(f"job {cell.name}: {error}") from error
    return dataclasses.replace(cell, config=config)


def _announce(sweep: Sweep) -> None:
    configs = [cell.config for cell in sweep.cells]
    states = [cell_state(cell.run_dir, cell.config) for cell in sweep.cells]
    print(f"Sweep of {len(states)} jobs in {sweep.directory}")
    if any(state is not CellState.new for state in states):
        counts = {state: states.count(state) for state in CellState if state in states}
        print("  " + ", ".join(f"{count} {state}" for state, count in counts.items()))
    if configs[0].sweep.budget is not Budget.own:
        print("  " + describe_budget(configs))
    if any(c.evaluation.before or c.evaluation.after for c in configs):
        lengths = configs[0].evaluation.lengths or configs[0].sweep.lengths
        print(f"  Perplexity on long documents at {', '.join(f'{n:,}' for n in lengths)} tokens.")
    sys.stdout.flush()


def _make_ready(sweep: Sweep) -> None:
    """Move away what was run with other settings, and note each job that is to be run."""
    for cell in sweep.cells:
        state = cell_state(cell.run_dir, cell.config)
        if state is CellState.changed:
            kept = set_aside(cell.run_dir).relative_to(sweep.directory)
            print(f"  {cell.name}: settings changed; the former run is kept in {kept}", flush=True)
        if state is not CellState.done:
            cell.run_dir.mkdir(parents=True, exist_ok=True)
            save_config(cell.config, cell.run_dir / CONFIG)
            initial_result(cell.config, Status.pending).write(cell.run_dir)
