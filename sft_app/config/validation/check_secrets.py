"""A secret on a command line, or in a file, would be written into the files of the run."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from sft_app.common.errors import ConfigError
from sft_app.common.secrets import is_secret_key, is_secret_value
from sft_app.config.schema.app import AppConfig
from sft_app.config.schema.from_environment import FromEnvironment


def check_secrets(config: AppConfig) -> None:
    """Raise ConfigError for the first secret that does not come from the environment."""
    for key, value in _texts(config, ""):
        if isinstance(value, FromEnvironment):
            continue
        if is_secret_key(key) or is_secret_value(value):
            raise ConfigError(
                f"{key}=(hidden) is a secret, and what is typed stands in the files of the run and "
                "in the list of processes: put it into the environment, and write "
                f"'{key}=${{oc.env:NAME}}' with the variable's name."
            )


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str) and value:
        yield key, value
    items: list[tuple[Any, Any]] = []
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    elif isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    for name, item in items:
        yield from _texts(item, f"{key}.{name}" if key else str(name))
