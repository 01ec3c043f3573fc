"""Rules for the names that `data.columns` and `data.roles` give."""

from difflib import get_close_matches

from sft_app.common.errors import ConfigError
from sft_app.config.schema.app import AppConfig
from sft_app.config.schema.data import COLUMN_NAMES, ROLE_NAMES


def check_data_names(config: AppConfig) -> None:
    """Raise ConfigError for a column or a role that the application does not know."""
    for name, column in _names("data.columns", config.data.columns).items():
        if name not in COLUMN_NAMES:
            turned = f" Did you mean data.columns={{{column}: {name}}}?"
            near = get_close_matches(name, COLUMN_NAMES, n=1)
            hint = f" Did you mean data.columns.{near[0]}?" if near else ""
            raise ConfigError(
                f"data.columns.{name}={column}: {name} is nothing that a record can hold."
                f"{turned if column in COLUMN_NAMES else hint} Known: {', '.join(COLUMN_NAMES)}."
            )
    for speaker, role in _names("data.roles", config.data.roles).items():
        if role not in ROLE_NAMES:
            turned = f" Did you mean data.roles={{{role}: {speaker}}}?"
            raise ConfigError(
                f"data.roles.{speaker}={role}: {role} is no role."
                f"{turned if speaker in ROLE_NAMES else ''} Allowed: {', '.join(ROLE_NAMES)}."
            )


def _names(key: str, value: object) -> dict[str, str]:
    if value is None:
        return {}
    if isinstance(value, dict) and all(isinstance(name, str) for name in value.values()):
        return value
    raise ConfigError(f"{key}={value!r} is no mapping of names: give '{key}={{name: name}}'.")
