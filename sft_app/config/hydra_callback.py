"""Validation at the only moment when nothing has been written yet.

Hydra calls `on_run_start` after composing and before it makes the run's directory. An ordinary
exception in a callback would only become a warning: SystemExit ends the program.
"""

import os
import sys
from pathlib import Path
from typing import Any, NoReturn

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from sft_app.common.errors import ConfigError
from sft_app.config.schema.app import AppConfig, to_typed
from sft_app.config.validation.validate import validate

EXIT_BAD_CONFIG = 2


class ValidateBeforeStart(Callback):
    """Refuse what cannot work; named in conf/config.yaml below hydra.callbacks."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Validate the composed configuration; exits with 2 and one message."""
        try:
            validate(typed_without_hydra(config))
        except ConfigError as error:
            exit_with_message(error)


def typed_without_hydra(config: DictConfig) -> AppConfig:
    """Return the application's part of a composed configuration, resolved.

    Raises ConfigError when a value is missing.
    """
    own = config.copy()
    with open_dict(own):
        own.pop("hydra", None)
    try:
        return to_typed(own)
    except MissingMandatoryValue as error:
        key = error.full_key or "a mandatory setting"
        raise ConfigError(f"{key} is not set: give it a value, {key}=...") from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {error.msg or error}") from error


PROGRAMS = {"train": "sft-train", "plan": "sft-plan", "report": "sft-report"}
"""How a module that is run with `python -m` is called as a command."""


def program_name() -> str:
    """Return the command's name, however it was started."""
    stem = Path(sys.argv[0]).stem
    return PROGRAMS.get(stem, stem)


def exit_with_message(error: Exception) -> NoReturn:
    """Print one message, without a traceback unless HYDRA_FULL_ERROR asks for it; exit with 2."""
    if os.environ.get("HYDRA_FULL_ERROR"):
        raise error
    print(f"{program_name()}: {error}", file=sys.stderr)
    sys.exit(EXIT_BAD_CONFIG)
