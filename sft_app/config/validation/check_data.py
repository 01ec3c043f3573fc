"""Rules for the names that `data.columns` and `data.roles` give."""

from difflib import get_close_matches

from sft_app.common.errors import ConfigError
from sft_app.config.schema.app import AppConfig
from sft_app.config.schema.data import COLUMN_NAMES, ROLE_NAMES, PositionSkipping


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


def check_position_skipping(config: AppConfig) -> None:
    """Raise ConfigError unless position_skipping and its target belong together."""
    skipping, target = config.data.position_skipping, config.data.position_target
    if skipping is PositionSkipping.none:
        if target is not None:
            raise ConfigError(
                f"data.position_target={target} has no meaning with data.position_skipping=none: "
                "leave it out, or set data.position_skipping=pose."
            )
        return
    if target is None or target <= config.context_length:
        raise ConfigError(
            f"data.position_skipping=pose needs a target beyond the rows: data.position_target="
            f"{2 * config.context_length}, for example, with context_length="
            f"{config.context_length} (it is {'null' if target is None else target})."
        )
    attention = config.model.attn_implementation
    if attention not in ("auto", "sft_packed", "sdpa", "eager"):
        raise ConfigError(
            f"model.attn_implementation={attention} finds packed documents in positions by itself, "
            "and data.position_skipping=pose skips some: set model.attn_implementation=auto."
        )


def _names(key: str, value: object) -> dict[str, str]:
    if value is None:
        return {}
    if isinstance(value, dict) and all(isinstance(name, str) for name in value.values()):
        return value
    raise ConfigError(f"{key}={value!r} is no mapping of names: give '{key}={{name: name}}'.")
