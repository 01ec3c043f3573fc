"""What every composing command does with its arguments before Hydra sees them."""

import json
import sys
import warnings
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

from sft_app.common.errors import ConfigError
from sft_app.config.conf_files import group_options
from sft_app.config.forgotten import USAGE
from sft_app.config.one_sentence import EXIT_BAD_INPUT, exit_with_message, program_name
from sft_app.config.overrides.key_names import FILE_KEYS, what_is_meant
from sft_app.config.overrides.read_overrides import read_overrides
from sft_app.config.own_config_files import check_config_dir
from sft_app.config.reference.describe_settings import all_settings

FLAGS = (
    "--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m",
    "--shell-completion", "-sc", "--schema",
)  # fmt: skip
WITH_A_VALUE = (
    "--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn",
    "--config-dir", "-cd", "--experimental-rerun",
)  # fmt: skip
INFO = ("--info", "-i")
INFO_CHOICES = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
CFG_CHOICES = ("job", "hydra", "all")

# Before Hydra's decorators, which come after this import. Ours replaces the plugin's settings of
# that name on purpose; Hydra's warning is for accidents.
warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/ray' is validated against")
# From Hydra 1.4 on: the decorators' arguments, our own callbacks, and plugins that are older.
HYDRA_1_4 = r"(?s).*(version_base|execution_whitelist|register_new_resolver\(\) is deprecated)"
warnings.filterwarnings("ignore", message=HYDRA_1_4)


def prepare_arguments(argv: list[str]) -> None:
    """Check the words in `argv` (sys.argv) and write them as Hydra reads them, options first.

    Exits with 0 after --help and --schema, and with 2 and one message when a word names nothing
    that exists.
    """
    arguments = argv[1:]
    if "-sc" in arguments or "--shell-completion" in arguments:
        return  # half-typed words are no mistakes
    if not arguments:
        print(USAGE.replace("sft-train", program_name()), end="")
        sys.exit(EXIT_BAD_INPUT)
    try:
        options, words = separate(arguments)
        asks_for_help = "--help" in options or "-h" in options
        topics = [w for w in words if asks_for_help and "=" not in w and not w.startswith("~")]
        overrides = read_overrides(
            [word for word in words if word not in topics],
            own_options=_any(arguments, "--config-dir", "-cd", "hydra.searchpath"),
            may_sweep=_any(arguments, "--multirun", "-m", "hydra.mode", "experiment="),
        )
        if "--schema" in options:
            print_schema()
        if asks_for_help:
            print_help(topics, overrides)
    except ConfigError as error:
        exit_with_message(error)
    argv[1:] = [*options, *overrides]


def separate(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return the options with their values, and the other words, each in their order.

    Hydra's own parser takes overrides in one place only, before or after the options. Raises
    ConfigError for an unknown option, or one whose value is missing.
    """
    options: list[str] = []
    words: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            words.append(word)
            continue
        name, separator, value = word.partition("=")
        if name in WITH_A_VALUE:
            if not separator and not rest:
                raise ConfigError(f"{name} needs a value: {name} VALUE")
            options += [name, _checked_value(name, value if separator else rest.pop(0))]
        elif name in INFO:
            chosen = rest.pop(0) if rest and rest[0] in INFO_CHOICES else value or "all"
            options += [name, chosen]
        elif word in FLAGS:
            options.append(word)
        else:
            follows = rest[0] if rest and not separator and "=" not in rest[0] else ""
            raise ConfigError(f"'{word}' is not an option.{_meant(name, value or follows)}")
    modes = [
        option
        for option in options
        if option in ("--run", "-r", "--multirun", "-m", "--cfg", "-c", *INFO)
    ]
    if len(modes) > 1:
        raise ConfigError(f"{' and '.join(modes)} exclude each other: keep one.")
    return options, words


def _any(arguments: list[str], *beginnings: str) -> bool:
    return any(word.startswith(beginnings) for word in arguments)


def _checked_value(option: str, value: str) -> str:
    if option in ("--cfg", "-c") and value not in CFG_CHOICES:
        raise ConfigError(f"{option} {value} is not possible: choose {', '.join(CFG_CHOICES)}.")
    if option in ("--config-dir", "-cd"):
        if not Path(value).is_dir():
            raise ConfigError(f"{option} {value}: there is no such folder.")
        check_config_dir(Path(value))
    return value


def _meant(name: str, value: str) -> str:
    near = get_close_matches(name, [*FLAGS, *WITH_A_VALUE, *INFO], n=1, cutoff=0.8)
    if near:
        return f" Did you mean {near[0]}?"
    key = name.lstrip("-").replace("-", "_")
    options = group_options(key)
    if options and value not in options:
        key = FILE_KEYS.get(key, key)
    known = key in all_settings() or bool(options)
    meant = f": {key}={value or '...'}" if known else what_is_meant(key, value)
    return f" Settings are written without dashes, as key=value{meant}"


def print_help(topics: list[str], overrides: list[str]) -> NoReturn:
    """Print the help, or all that is known of each topic, and exit with 0.

    Exits with 2 and one message for an unknown topic, and when the overrides do not compose.
    """
    from sft_app.config.reference.help_pages import help_text, topic_text

    try:
        if not topics:
            print(help_text(program_name(), overrides))
        print("\n\n".join(topic_text(topic, overrides) for topic in topics))
    except Exception as error:
        exit_with_message(error)
    sys.exit(0)


def print_schema() -> NoReturn:
    """Print the JSON schema of a configuration, and exit with 0."""
    from sft_app.config.reference.json_schema import json_schema

    print(json.dumps(json_schema(), indent=2))
    sys.exit(0)
