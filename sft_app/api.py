"""The commands as functions: `sft_app.compose`, `.plan`, `.train` and `.report`.

    import sft_app

    config = sft_app.compose(["model.name_or_path=./my-model", "data.train=chat.jsonl"])
    print(sft_app.plan(config))
    result = sft_app.train(config, "outputs/runs/first")
    sft_app.report("outputs/runs/first")

Importing them takes neither torch nor transformers; `plan` imports both into this process, `train`
into processes of its own, as the command does. Bad input raises ConfigError, whose message is the
sentence that the command prints.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sft_app.config.schema.app import AppConfig
    from sft_app.records.result import RunResult


@dataclass(frozen=True)
class Plan:
    """What `sft-train` would do; printed, it reads as what `sft-plan` prints."""

    text: str
    values: dict[str, Any]
    """What a run writes into its plan.json."""

    def __str__(self) -> str:
        """Return the plan in words."""
        return self.text


def compose(overrides: Sequence[str] = ()) -> "AppConfig":
    """Return the typed configuration that these words of a command line make, validated.

    Raises ConfigError for the first thing that cannot work.
    """
    import hydra

    from sft_app.common.errors import ConfigError
    from sft_app.config.forgotten import check_model_and_data_are_named
    from sft_app.config.hydra_callback import typed_without_hydra
    from sft_app.config.one_sentence import as_sentence
    from sft_app.config.overrides.read_overrides import read_overrides
    from sft_app.config.schema.app import register_schema
    from sft_app.config.validation.validate import validate

    register_schema()
    words = read_overrides(list(overrides), may_sweep=False)
    try:
        with hydra.initialize_config_module("sft_app.conf", version_base="1.3"):
            composed = hydra.compose("config", overrides=words, return_hydra_config=True)
    except Exception as error:
        raise ConfigError(as_sentence(error)) from error
    config = typed_without_hydra(composed)
    validate(config)
    check_model_and_data_are_named(composed)
    return config


def plan(config: "AppConfig") -> Plan:
    """Return what training would do, without loading weights and without writing anything.

    Raises ConfigError or DataError for what the model, tokenizer or data do not allow.
    """
    from sft_app.launch.sweep.budget import apply_budget
    from sft_app.training.model_plan import plan_everything, plan_in_words

    planned = plan_everything(apply_budget(config))
    return Plan(text=plan_in_words(config, planned), values=planned.as_dict())


def train(config: "AppConfig", run_dir: str | Path) -> "RunResult":
    """Train in `run_dir`, in processes of its own, and return the run's result.

    A run that stands there already is continued when it is the same one, and its result returned
    when it is complete. Raises ConfigError where another run stands there, JobFailed when training
    fails, and JobInterrupted after a signal.
    """
    from sft_app.launch.job.job_lock import only_one
    from sft_app.launch.job.prepare_run import prepare_run
    from sft_app.launch.job.run_job import run_job
    from sft_app.launch.sweep.budget import apply_budget
    from sft_app.records.result import read_result
    from sft_app.reporting.run.run_report import write_run_report

    directory = Path(run_dir).absolute()
    config = apply_budget(config)
    if not prepare_run(config, directory):
        return read_result(directory)
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with only_one(directory):
            return run_job(config, directory)
    finally:
        write_run_report(directory)


def report(directory: str | Path) -> Path:
    """Write report.html of a run or a sweep (and a sweep's sweep.csv) and return its path.

    In a folder of many, the newest counts. Raises ConfigError where there is none.
    """
    from sft_app.common.errors import ConfigError
    from sft_app.reporting.run.find_runs import find
    from sft_app.reporting.run.run_report import write_run_report
    from sft_app.reporting.sweep.cells import collect_sweep
    from sft_app.reporting.sweep.sweep_csv import write_sweep_csv
    from sft_app.reporting.sweep.sweep_report import write_sweep_report

    found = find(Path(directory)) if Path(directory).is_dir() else None
    if found is None:
        raise ConfigError(f"There is no run in {directory}: give a run's or a sweep's directory.")
    if not found.is_sweep:
        return write_run_report(found.directory)
    cells = collect_sweep(found.directory)
    write_sweep_csv(found.directory, cells)
    return write_sweep_report(found.directory, None, cells)


def make_callable(module: str, function: Callable[..., Any]) -> None:
    """Let a command's module be called like `function`: sft_app.train is both, by name.

    `python -m sft_app.train` is the command; `sft_app.train(config, run_dir)` the function.
    """

    class CommandModule(ModuleType):
        __doc__ = function.__doc__

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

    sys.modules[module].__class__ = CommandModule
