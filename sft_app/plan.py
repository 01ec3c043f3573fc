"""sft-plan: what sft-train would do with the same arguments, without loading weights."""

import json
import sys
import tempfile
from dataclasses import replace

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from sft_app import api
from sft_app.api import make_callable
from sft_app.common.console import guard_console
from sft_app.common.errors import ConfigError
from sft_app.common.imports import UNUSED, lean_imports
from sft_app.config.command_line import prepare_arguments
from sft_app.config.forgotten import check_model_and_data_are_named
from sft_app.config.hydra_callback import run_task, typed_without_hydra
from sft_app.config.one_sentence import exit_with_message
from sft_app.config.overrides.read_overrides import quoted
from sft_app.config.schema.app import AppConfig, register_schema
from sft_app.config.validation.validate import validate
from sft_app.launch.sweep.budget import apply_budget, shared_settings, with_shared
from sft_app.reporting.terminal.planned_jobs import JobRow, PlannedJobs

WRITES_NOTHING = [
    "hydra.run.dir=.",
    "hydra.output_subdir=null",
    "~hydra.callbacks.sweep",
    "~hydra.callbacks.run",
]
"""Beside a sweep's folder, which Hydra makes whatever it is told: it is a temporary one."""


JSON = "--json"
"""Print one JSON object in the place of lines."""
JOBS: list[tuple[list[str], AppConfig]] = []
"""Of a sweep: what each job is called by, and its settings."""
PLANNED = PlannedJobs()


def main() -> None:
    """Run the command; exits with 0, or with 1 or 2 when it cannot be done as asked."""
    guard_console()
    as_json = JSON in sys.argv[1:]
    sys.argv[1:] = [word for word in sys.argv[1:] if word != JSON]
    prepare_arguments(sys.argv)
    register_schema()
    PLANNED.as_json = as_json
    with tempfile.TemporaryDirectory(prefix="sft-plan-") as scratch:
        sys.argv += [*WRITES_NOTHING, f"hydra.sweep.dir={quoted(scratch)}"]
        run_task(plan)
    if JOBS:
        plan_jobs()
    PLANNED.print_rows()


@hydra.main(version_base="1.3", config_path="pkg://sft_app.conf", config_name="config")
def plan(config: DictConfig) -> None:
    """Print the plan of a composed configuration."""
    # In a sweep, nobody has looked at this job before.
    composed = OmegaConf.create({"hydra": HydraConfig.get()})
    try:
        typed = typed_without_hydra(config)
        validate(typed)
        check_model_and_data_are_named(composed)
    except ConfigError as error:
        exit_with_message(error)
    hydra_config = HydraConfig.get()
    if hydra_config.mode is RunMode.MULTIRUN:
        JOBS.append((list(hydra_config.overrides.task), typed))
        return
    # Composing is over, and went well: only now are seconds spent on importing torch.
    with lean_imports(*UNUSED, "peft"):
        from sft_app.training.model_plan import plan_everything, print_plan

    try:
        settled = apply_budget(_on_planned_gpus(typed))
        planned = plan_everything(replace(settled, launch=typed.launch))
        if PLANNED.as_json:
            print(json.dumps(planned.as_dict(), indent=2))
        else:
            print_plan(typed, planned)
    except ValueError as error:  # ConfigError, DataError: sentences for the user
        exit_with_message(error)


def plan_jobs() -> None:
    """Plan the jobs of a sweep when all are known, for what they share follows from all of them."""
    with lean_imports(*UNUSED, "peft"):
        from sft_app.training.model_plan import plan_everything

    try:
        shared = shared_settings([_on_planned_gpus(config) for _, config in JOBS])
        for words, config in JOBS:
            settled = with_shared(_on_planned_gpus(config), shared)
            planned = plan_everything(replace(settled, launch=config.launch))
            PLANNED.rows.append(JobRow(words, planned.as_dict()))
    except ValueError as error:  # ConfigError, DataError: sentences for the user
        exit_with_message(error)


def _on_planned_gpus(config: AppConfig) -> AppConfig:
    """Return the job with a process for each GPU of plan.gpu, which a step is shared out to."""
    if config.plan.gpu is None:
        return config
    launch = replace(config.launch, nproc_per_node=config.plan.gpus, nnodes=1)
    return replace(config, launch=launch)


make_callable(__name__, api.plan)  # sft_app.plan(...), from Python

if __name__ == "__main__":
    main()
