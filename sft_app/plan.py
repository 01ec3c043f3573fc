"""sft-plan: what sft-train would do with the same arguments, without loading weights."""

import sys

import hydra
from omegaconf import DictConfig

from sft_app.common.console import guard_console
from sft_app.common.imports import lean_imports
from sft_app.config.command_line import prepare_arguments
from sft_app.config.hydra_callback import exit_with_message
from sft_app.config.schema.app import register_schema, to_typed

WRITES_NOTHING = [
    "hydra.run.dir=.",
    "hydra.output_subdir=null",
    "~hydra.callbacks.sweep",
    "~hydra.callbacks.run",
]


def main() -> None:
    """Run the command; exits with 0, or with 1 or 2 when it cannot be done as asked."""
    guard_console()
    prepare_arguments(sys.argv)
    sys.argv += WRITES_NOTHING
    register_schema()
    plan()


@hydra.main(version_base="1.3", config_path="pkg://sft_app.conf", config_name="config")
def plan(config: DictConfig) -> None:
    """Print the plan of a composed configuration."""
    # Composing is over, and went well: only now are seconds spent on importing torch.
    with lean_imports("datasets", "peft"):
        from sft_app.training.model_plan import print_plan

    try:
        print_plan(to_typed(config))
    except ValueError as error:  # ConfigError, DataError: sentences for the user
        exit_with_message(error)


if __name__ == "__main__":
    main()
