"""Validation at the only moment when nothing has been written yet.

Hydra calls `on_run_start` after composing and before it makes the run's directory.
"""

import sys
import traceback
from collections.abc import Callable
from typing import Any, ClassVar, NoReturn

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from sft_app.common.errors import ConfigError
from sft_app.compat import hydra_internals
from sft_app.config.forgotten import check_model_and_data_are_named
from sft_app.config.one_sentence import exit_with_message, fails_closed, program_name
from sft_app.config.schema.app import AppConfig, to_typed
from sft_app.config.validation.check_secrets import check_hydra_secrets
from sft_app.config.validation.validate import validate
from sft_app.config.validation.without_effect import settings_of_a_sweep, settings_without_effect


class ValidateBeforeStart(Callback):
    """Refuse what cannot work; named in conf/config.yaml below hydra.callbacks."""

    job_started: ClassVar[bool] = False
    """Whether this process is beyond composing: what is raised now is not the user's input."""

    @fails_closed
    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Validate the composed configuration; exits with 2 and one message."""
        typed = typed_without_hydra(config)
        validate(typed)
        check_hydra_secrets(config)
        check_model_and_data_are_named(config)
        for note in [*settings_without_effect(typed), *settings_of_a_sweep(typed)]:
            print(f"{program_name()}: {note}", file=sys.stderr)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Note that composing is over."""
        ValidateBeforeStart.job_started = True


def run_task(task: Callable[[], None]) -> None:
    """Call a @hydra.main function, and see to how it ends.

    What is raised while it composes ends with one sentence and exit code 2; an error in a job that
    nobody has caught, with its traceback and 1.
    """
    try:
        with hydra_internals.hydra_exceptions_pass():
            task()
    except Exception as error:
        if isinstance(error, ConfigError) or not ValidateBeforeStart.job_started:
            exit_with_message(error)
        _exit_with_traceback(error)


def _exit_with_traceback(error: Exception) -> NoReturn:
    traceback.print_exception(error)
    raise SystemExit(1)


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
        reason = str(error.msg or error).splitlines()[0]
        raise ConfigError(f"{error.full_key}: {reason}") from error
