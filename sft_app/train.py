"""sft-train: compose the configuration once, then run it in worker processes."""

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from sft_app.config.app import register_schema, to_typed
from sft_app.config.callback import exit_with_message
from sft_app.config.command_line import prepare_arguments
from sft_app.config.errors import ConfigError
from sft_app.launch.job import JobFailed, JobInterrupted, run_job
from sft_app.launch.messages import closing
from sft_app.launch.outer import refuse_outer_launcher
from sft_app.reporting.run_report import write_run_report


def main() -> None:
    """Console entry point: exit code 0, 1 (a job failed), 2 (bad input), 130 or 143 (a signal)."""
    try:
        refuse_outer_launcher()
    except ConfigError as error:
        exit_with_message(error)
    prepare_arguments(sys.argv)
    register_schema()
    try:
        train()
    except JobInterrupted as interruption:
        sys.exit(interruption.exit_code)


@hydra.main(version_base="1.3", config_path="pkg://sft_app.conf", config_name="config")
def train(config: DictConfig) -> None:
    """One job, in the directory that Hydra made for it."""
    hydra_config = HydraConfig.get()
    run_dir = Path(hydra_config.runtime.output_dir)
    try:
        result = run_job(to_typed(config), run_dir)
    except JobFailed as failure:
        if hydra_config.mode is RunMode.MULTIRUN:
            raise  # Hydra notes it, and goes on with the next job of the sweep.
        sys.exit(failure.exit_code)
    finally:
        write_run_report(run_dir)
    print(closing(result, run_dir))


if __name__ == "__main__":
    main()
