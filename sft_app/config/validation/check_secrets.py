"""A secret on a command line, or in a file, would be written into the files of the run."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sft_app.common.errors import ConfigError
from sft_app.common.secrets import is_secret_key, is_secret_value, is_secret_variable
from sft_app.config.schema.app import AppConfig
from sft_app.config.schema.from_environment import FromEnvironment, texts_by_key


def check_secrets(config: AppConfig) -> None:
    """Raise ConfigError for the first secret that does not come from the environment."""
    for key, value in texts_by_key(config):
        if not value or isinstance(value, FromEnvironment):
            continue
        if is_secret_key(key) or is_secret_value(value):
            raise _typed_secret(key)


WHAT_WAS_TYPED = ("hydra.overrides", "hydra.job.override_dirname", "hydra.runtime")
"""Words that are checked where they belong."""


def check_hydra_secrets(config: DictConfig) -> None:
    """Raise ConfigError for the first secret among Hydra's own words, which `.hydra/` holds.

    As for our own, a reference to the environment is no secret.
    """
    written = OmegaConf.to_container(config.hydra, resolve=False)
    for key, value in _texts(written, "hydra"):
        if not value or "${" in value or key.startswith(WHAT_WAS_TYPED):
            continue
        name = key.rpartition(".")[2]
        if is_secret_variable(name) or is_secret_value(value):
            raise _typed_secret(key)


def check_folder_name(key: str, folder: Path) -> None:
    """Raise ConfigError for a folder with a secret in its name, which everybody sees."""
    if is_secret_value(str(folder)):
        raise ConfigError(
            f"{key} names a folder after a secret, for everybody to see: leave the secret out."
        )


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _texts(item, f"{key}.{name}")
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, key)
    elif isinstance(value, str):
        yield key, value


def _typed_secret(key: str) -> ConfigError:
    return ConfigError(
        f"{key}=(hidden) is a secret, and what is typed stands in the files of the run and in the "
        f"list of processes: put it into the environment, and write '{key}=${{oc.env:NAME}}' with "
        "the variable's name."
    )
