"""A report is handed on: access tokens and passwords of a configuration stay out of it."""

import re
from typing import Any

HIDDEN = "(hidden)"

# pad_token, eos_token and their like are no secrets.
_SECRET = re.compile(
    r"(^|_)(api_?key|secret|secret_key|password|credentials?|(hub|hf|auth|access|api)_token)$|^token$",
    re.IGNORECASE,
)


def without_secrets(config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration with the values of secret keys hidden, at any depth."""
    return {key: HIDDEN if _hides(key, value) else _inside(value) for key, value in config.items()}


def shown(override: str) -> str:
    """Return a Hydra override `key=value`, its value hidden when the key names a secret."""
    key, separator, value = override.partition("=")
    return f"{key}={HIDDEN}" if separator and _hides(key.split(".")[-1], value) else override


def _hides(key: object, value: Any) -> bool:
    return bool(value) and isinstance(key, str) and bool(_SECRET.search(key))


def _inside(value: Any) -> Any:
    if isinstance(value, dict):
        return without_secrets(value)
    return [_inside(item) for item in value] if isinstance(value, list) else value
