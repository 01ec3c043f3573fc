"""What every composing command does with its arguments before Hydra sees them."""

import json
import sys
import warnings
from typing import NoReturn

from sft_app.common.errors import ConfigError
from sft_app.config.hydra_callback import exit_with_message, program_name
from sft_app.config.overrides import check_overrides, open_dict_overrides

TAKE_A_VALUE = (
    "--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn",
    "--config-dir", "-cd", "--experimental-rerun",
)  # fmt: skip
"""Options of Hydra whose next word belongs to them; `--info` may have one."""
INFO = ("--info", "-i")


def prepare_arguments(argv: list[str]) -> None:
    """Check the overrides in `argv` (sys.argv) and write them as Hydra reads them, options first.

    Exits with 0 after --help and --schema, and with 2 and one message when an override names
    nothing that exists.
    """
    arguments = argv[1:]
    if "-sc" in arguments or "--shell-completion" in arguments:
        return  # half-typed words are no mistakes
    options, words = separate(arguments)
    asks_for_help = "--help" in options or "-h" in options
    topics = [word for word in words if "=" not in word and not word.startswith("~")]
    overrides = [word for word in words if word not in topics] if asks_for_help else words
    if "--schema" in options:
        print_schema()
    try:
        check_overrides([*options, *overrides])
        overrides = open_dict_overrides(overrides)
        if asks_for_help:
            print_help(topics, overrides)
    except ConfigError as error:
        exit_with_message(error)
    argv[1:] = [*options, *overrides]
    # Ours replaces the plugin's settings of that name on purpose; Hydra's warning is for accidents.
    warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/ray' is validated against")


def separate(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return the options with their values, and the other words, each in their order.

    Hydra's own parser takes overrides in one place only, before or after the options.
    """
    options: list[str] = []
    words: list[str] = []
    rest = iter(arguments)
    for word in rest:
        if not word.startswith("-"):
            words.append(word)
            continue
        options.append(word)
        if word in TAKE_A_VALUE:
            options.extend(value for value in (next(rest, None),) if value is not None)
        elif word in INFO:
            value = next(rest, None)
            if value is not None:
                (words if "=" in value else options).append(value)
    return options, words


def print_help(topics: list[str], overrides: list[str]) -> NoReturn:
    """Print the help, or all that is known of each topic, and exit with 0.

    Raises ConfigError for an unknown topic, and when the overrides do not compose.
    """
    from hydra.errors import HydraException

    from sft_app.config.reference.help_pages import help_text, topic_text

    try:
        if not topics:
            print(help_text(program_name(), overrides))
        print("\n\n".join(topic_text(topic, overrides) for topic in topics))
    except HydraException as error:
        raise ConfigError(" ".join(str(error).split())) from error
    sys.exit(0)


def print_schema() -> NoReturn:
    """Print the JSON schema of a configuration, and exit with 0."""
    from sft_app.config.reference.json_schema import json_schema

    print(json.dumps(json_schema(), indent=2))
    sys.exit(0)
