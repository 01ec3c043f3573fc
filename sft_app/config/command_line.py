"""What every composing command does with its arguments before Hydra sees them."""

import sys
import warnings
from typing import NoReturn

from hydra.errors import HydraException

from sft_app.common.errors import ConfigError
from sft_app.config.help import help_text
from sft_app.config.hydra_callback import exit_with_message
from sft_app.config.overrides import check_overrides, open_dict_overrides


def prepare_arguments(argv: list[str]) -> None:
    """Check the overrides in `argv` (sys.argv), and let them add keys to open dictionaries.

    Exits with 2 and one message when an override names nothing that exists.
    """
    arguments = argv[1:]
    if "-sc" in arguments or "--shell-completion" in arguments:
        return  # half-typed words are no mistakes
    try:
        check_overrides(arguments)
    except ConfigError as error:
        exit_with_message(error)
    argv[1:] = open_dict_overrides(arguments)
    if "--help" in arguments or "-h" in arguments:
        print_help(argv[1:])
    # Ours replaces the plugin's settings of that name on purpose; Hydra's warning is for accidents.
    warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/ray' is validated against")


def print_help(arguments: list[str]) -> NoReturn:
    """Exit with 0, or with 1 and Hydra's message when the overrides do not compose."""
    try:
        print(help_text([word for word in arguments if not word.startswith("-")]))
    except HydraException as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    sys.exit(0)
