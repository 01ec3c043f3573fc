"""Before a sweep starts: every job composed, checked and named, and what is done left alone."""

import dataclasses
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from sft_app.common.errors import ConfigError
from sft_app.common.imports import UNUSED
from sft_app.compat.hydra_internals import BASIC_SWEEPER
from sft_app.config.forgotten import check_model_and_data_are_named
from sft_app.config.one_sentence import fails_closed
from sft_app.config.schema.adapter import AdapterMethod
from sft_app.config.schema.app import save_config
from sft_app.config.schema.sweep import Budget
from sft_app.config.validation.check_secrets import check_folder_name, check_hydra_secrets
from sft_app.config.validation.without_effect import without_effect_anywhere
from sft_app.launch.job.job_errors import JobFailed, JobInterrupted
from sft_app.launch.job.job_lock import only_one
from sft_app.launch.job.job_state import JobState, job_state, look_at, set_aside
from sft_app.launch.job.run_job import has_one_worker, initial_result
from sft_app.launch.job.worker_processes import worker_environment, world_size
from sft_app.launch.sweep.budget import describe_budget, shared_settings, with_shared
from sft_app.launch.sweep.check_job_plans import check_plans
from sft_app.launch.sweep.compose_jobs import SweepJob, add_task_override, compose_jobs
from sft_app.launch.sweep.equal_plans import jobs_that_share
from sft_app.launch.sweep.launcher import Launcher, settle_processes, which_launcher
from sft_app.launch.sweep.named_checkpoint import check_named_checkpoints
from sft_app.launch.sweep.ray_pool import start_pool
from sft_app.launch.sweep.rungs.continue_budget import check_can_continue
from sft_app.launch.sweep.rungs.halving import add_rungs, jobs_left, one_batch_a_rung
from sft_app.launch.sweep.slurm import prepare_slurm
from sft_app.launch.sweep.watch import Watch
from sft_app.launch.warm.warm_python import WarmPython
from sft_app.records.earlier_starts import earlier_starts
from sft_app.records.identity import identity_of
from sft_app.records.result import Status
from sft_app.records.run_files import CONFIG


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep that is ready to run."""

    directory: Path
    jobs: tuple[SweepJob, ...]
    launcher: Launcher
    shared: Mapping[str, str] = field(default_factory=dict)
    """Name of a job -> name of the one that runs for it, because both would do the same."""
    watch: Watch | None = None
    """None: this process runs the jobs itself, and they tell of themselves."""
    warm: WarmPython | None = None
    """What the jobs that this process runs are forked from; None: they start by themselves."""


class PrepareSweep(Callback):
    """Named in conf/config.yaml below hydra.callbacks. Hydra calls it before it makes any folder,
    and composes the jobs from what it leaves in the configuration."""

    sweep: ClassVar[Sweep | None] = None
    """The sweep that this process started: entry points conclude it."""
    refresh: ClassVar[Callable[[], None] | None] = None
    """What brings the sweep's page up to date, where others run the jobs: set by entry points."""

    @fails_closed
    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Prepare the sweep, or end the command where something is wrong or nothing is left."""
        sweep = prepare_sweep(config)
        PrepareSweep.sweep = sweep
        if not jobs_left(sweep.jobs):
            print("Nothing is left to do: every job completed with these settings.")
            sys.exit(0)
        # A job that this process runs sees to it that it is ended; between two, nobody would.
        signal.signal(signal.SIGTERM, _interrupt)
        if sweep.watch is not None:
            sweep.watch.start()


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise JobInterrupted(signal.Signals(signum))


def prepare_sweep(master: DictConfig) -> Sweep:
    """Check everything that can be checked now; only then touch the sweep's folder.

    Raises ConfigError.
    """
    check_model_and_data_are_named(master)
    check_hydra_secrets(master)
    _check_sweep(master)
    print("Checking the jobs of the sweep before the first one starts ...", flush=True)
    launcher = which_launcher(master)
    add_rungs(master)
    jobs = compose_jobs(master, on_slurm=launcher is Launcher.slurm)
    for job in jobs:
        check_folder_name("hydra.sweep.dir or hydra.sweep.subdir", job.run_dir)
    one_batch_a_rung(master, jobs)
    if launcher is not Launcher.serial:
        jobs, launch = settle_processes(master, launcher, jobs)
    else:
        _check_nodes(jobs)
    jobs = _settle(master, jobs)
    to_run = jobs_left(jobs)
    check_named_checkpoints(to_run)
    warm = warm_python(to_run) if launcher is Launcher.serial else None
    try:
        plans = check_plans(to_run, warm)
    except ConfigError:
        if warm is not None:
            warm.close()
        raise
    if launcher is Launcher.ray:
        start_pool(master, launch)
    if launcher is Launcher.slurm:
        prepare_slurm(master, launch)
    sweep = Sweep(
        directory=jobs[0].run_dir.parent,
        jobs=tuple(jobs),
        launcher=launcher,
        watch=None if launcher is Launcher.serial else Watch(jobs, PrepareSweep.refresh),
        warm=warm,
        shared=jobs_that_share(jobs, plans),
    )
    for note in without_effect_anywhere([job.config for job in jobs]):
        print(f"sft-train: {note}", file=sys.stderr)
    _announce(sweep)
    _make_ready(sweep, to_run)
    return sweep


def warm_python(jobs: list[SweepJob]) -> WarmPython | None:
    """Start what the workers of `jobs` are forked from; None where nothing would be gained."""
    single = [job.config for job in jobs if has_one_worker(job.config.launch)]
    if len(single) < 2:
        return None
    adapters = any(config.adapter.method is not AdapterMethod.none for config in single)
    return WarmPython(
        "sft_app.training.run_training",
        worker_environment(single[0].launch),
        without=UNUSED if adapters else (*UNUSED, "peft"),
    )


def _check_nodes(jobs: list[SweepJob]) -> None:
    nnodes = max(job.config.launch.nnodes for job in jobs)
    if nnodes > 1:
        raise ConfigError(
            f"launch.nnodes={nnodes}: the jobs of a sweep take several nodes on Slurm only: "
            "hydra/launcher=slurm, or launch.nnodes=1."
        )


def _check_sweep(master: DictConfig) -> None:
    name = master.sweep.name
    if name is not None and not re.fullmatch(r"[\w+=-][\w.+=-]*", str(name)):
        raise ConfigError(
            f"sweep.name={name} names a folder: use letters, digits and . _ - only, such as "
            "sweep.name=context_1."
        )
    if master.run.name is not None:
        raise ConfigError(
            f"run.name={master.run.name} names one run: a sweep is named with sweep.name=..."
        )
    if master.hydra.sweeper._target_ != BASIC_SWEEPER:
        raise ConfigError(
            f"hydra.sweeper._target_={master.hydra.sweeper._target_}: jobs are checked before the "
            "sweep starts, which takes a sweeper that knows them all: leave out hydra/sweeper."
        )


def _settle(master: DictConfig, jobs: list[SweepJob]) -> list[SweepJob]:
    """Decide once what the jobs share, and make it a setting of each of them."""
    given = jobs[0].config.sweep
    shared = shared_settings([job.config for job in jobs])
    for name, value in shared.items():
        if value != getattr(given, name):
            text = f"[{','.join(map(str, value))}]" if isinstance(value, list) else value
            add_task_override(master, f"sweep.{name}={text}")
    return [_with_shared(job, shared) for job in jobs]


def _with_shared(job: SweepJob, shared: Mapping[str, Any]) -> SweepJob:
    try:
        config = with_shared(job.config, shared)
        check_can_continue(config)
    except ConfigError as error:
        raise ConfigError(f"job {job.name}: {error}") from error
    return dataclasses.replace(job, config=config)


def _announce(sweep: Sweep) -> None:
    configs = [job.config for job in sweep.jobs]
    states = [job_state(job.run_dir, job.config) for job in sweep.jobs]
    print(f"Sweep of {len(states)} jobs in {sweep.directory}")
    if any(state is not JobState.new for state in states):
        counts = {state: states.count(state) for state in JobState if state in states}
        print("  " + ", ".join(f"{count} {state}" for state, count in counts.items()))
    if configs[0].sweep.budget is not Budget.own:
        print("  " + describe_budget(configs))
    if any(c.evaluation.before or c.evaluation.after for c in configs):
        lengths = configs[0].evaluation.lengths or configs[0].sweep.lengths
        print(f"  Perplexity on long documents at {', '.join(f'{n:,}' for n in lengths)} tokens.")
    sys.stdout.flush()


def _make_ready(sweep: Sweep, to_run: Sequence[SweepJob]) -> None:
    """Move away what was run with other settings, and note each job that is to be run."""
    for job in to_run:
        try:
            job.run_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"hydra.sweep.dir={sweep.directory}: {job.run_dir} cannot be made "
                f"({error.strerror}): name a folder that you may write to."
            ) from error
        try:
            with only_one(job.run_dir):
                _make_job_ready(job, sweep)
        except JobFailed:
            print(f"  {job.name} is being run by another process: this sweep will wait for it.")


def _make_job_ready(job: SweepJob, sweep: Sweep) -> None:
    found = look_at(job.run_dir, job.config)
    anew = job.config.trainer.resume_from_checkpoint in (None, "never")
    if found.state is JobState.changed or (found.state is JobState.unfinished and anew):
        kept = set_aside(job.run_dir).relative_to(sweep.directory)
        why = "; ".join(found.differences[:2]) or "to be started anew"
        print(f"  {job.name}: {why}; the former run is kept in {kept}", flush=True)
    elif found.state is JobState.unfinished and found.notes:
        print(f"  {job.name} goes on: {'; '.join(found.notes)}", flush=True)
    if found.state is not JobState.done:
        job.run_dir.mkdir(parents=True, exist_ok=True)
        save_config(job.config, job.run_dir / CONFIG)
        result = initial_result(job.config, Status.pending)
        earlier_starts(job.run_dir).note(result)
        if (other := sweep.shared.get(job.name)) is not None:
            result.status, result.same_as = Status.shared, other
            # Of what it is the result that the other one will have.
            identity_of(job.config, world_size(job.config.launch)).write(job.run_dir)
            print(
                f"  {job.name}: not run; {other} would do the same, and runs for both", flush=True
            )
        result.write(job.run_dir)
