"""What must never be written down: passwords, access tokens. One redactor for all that is shown.

Logs, error texts, reports and the files of a run are read by others than the one who ran it.
"""

import logging
import os
import re
from typing import Any

HIDDEN = "(hidden)"

_SECRET_NAME = (
    r"(?:\w+_)?(?:api_?key|secret|secret_?key|secret_?access_?key|passwd|password|credentials?|"
    r"(?:hub|hf|auth|access|api|bearer|refresh)_?token)"
)
# pad_token, eos_token and their like are no secrets.
_KEY = re.compile(rf"(?:{_SECRET_NAME}|token)\Z", re.IGNORECASE)
_URL = re.compile(r"(?P<scheme>\b[a-zA-Z][\w+.-]*://)(?P<login>[^/\s?#@'\"]*:[^/\s?#'\"]*)@")
_IN_QUERY = re.compile(
    rf"(?P<key>[?&](?:{_SECRET_NAME}|sig|signature|token)=)(?P<value>[^&\s'\"]+)", re.IGNORECASE
)
_ASSIGNED = re.compile(
    rf"(?P<key>\b(?:[\w]+\.)*{_SECRET_NAME}['\"]?\s*[=:]\s*['\"]?)(?P<value>(?!\$\{{)[^\s'\",}}\]]+)",
    re.IGNORECASE,
)
_SHAPES = re.compile(
    r"\bhf_[A-Za-z0-9]{16,}|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{16,}|"
    r"\bsk-[A-Za-z0-9_-]{20,}|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bxox[abprs]-[\w-]{10,}|"
    r"\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{10,}"
)
"""Tokens that are known by how they begin, whatever names them."""


SHORTEST_HIDDEN = 8
"""Characters of a secret in the environment; a shorter one stands in other texts by chance."""


_REFERENCE = re.compile(r"\$\{oc\.env:\s*(\w+)")
_referred_to: set[str] = set()


def note_references(text: str) -> None:
    """Take the variables that a setting refers to, `${oc.env:NAME}`, for secrets from now on.

    Whoever writes a reference in the place of a value may have a reason that the name does not
    show. What is shown in its place is the reference.
    """
    _referred_to.update(_REFERENCE.findall(text))


def hide_secrets(text: str) -> str:
    """Return `text` with passwords in URLs, values of secret keys and known tokens hidden.

    So is the value of each environment variable whose name is that of a secret, such as HF_TOKEN,
    and of each that a setting refers to, unless it is the place of something, such as HOME.
    """
    for name, value in os.environ.items():
        if len(value) < SHORTEST_HIDDEN or value not in text:
            continue
        if is_secret_variable(name):
            text = text.replace(value, HIDDEN)
        elif name in _referred_to and not _is_there(value):
            text = text.replace(value, f"${{oc.env:{name}}}")
    text = _URL.sub(lambda m: f"{m['scheme']}{HIDDEN}@", text)
    text = _IN_QUERY.sub(lambda m: f"{m['key']}{HIDDEN}", text)
    text = _ASSIGNED.sub(lambda m: f"{m['key']}{HIDDEN}", text)
    return _SHAPES.sub(HIDDEN, text)


def hide_in_texts(value: Any) -> Any:
    """Return what JSON can hold with the secrets in its texts hidden, whatever their keys."""
    if isinstance(value, dict):
        return {hide_in_texts(key): hide_in_texts(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [hide_in_texts(item) for item in value]
    return hide_secrets(value) if isinstance(value, str) else value


def _is_there(text: str) -> bool:
    try:
        return os.path.exists(text)  # noqa: PTH110 (no Path of what may be no path at all)
    except ValueError:
        return False


def is_secret_key(key: object) -> bool:
    """Tell whether the last part of a dotted key names a secret."""
    return isinstance(key, str) and _KEY.match(key.rpartition(".")[2]) is not None


def is_secret_variable(name: str) -> bool:
    """Tell whether an environment variable is named as a secret: there no token is a pad token."""
    return is_secret_key(name) or name.upper().endswith("_TOKEN")


def is_secret_value(value: object) -> bool:
    """Tell whether a text shows a secret, whatever its key."""
    return isinstance(value, str) and hide_secrets(value) != value


def without_secrets(value: Any) -> Any:
    """Return a configuration, or a part of it, with its secrets hidden, at any depth."""
    if isinstance(value, dict):
        return {
            key: HIDDEN if item and is_secret_key(key) else without_secrets(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [without_secrets(item) for item in value]
    return hide_secrets(value) if isinstance(value, str) else value


def shown_override(override: str) -> str:
    """Return an override `key=value`, its value hidden when it is a secret."""
    key, separator, value = override.partition("=")
    if separator and value and is_secret_key(key):
        return f"{key}={HIDDEN}"
    return hide_secrets(override)


class HideSecrets(logging.Filter):
    """Hide secrets in every record that a handler writes, exceptions included."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Replace the record's message where it shows a secret; lets every record pass."""
        message = record.getMessage()
        hidden = hide_secrets(message)
        if hidden != message:
            record.msg, record.args = hidden, ()
        if record.exc_info and record.exc_text is None:
            record.exc_text = hide_secrets(logging.Formatter().formatException(record.exc_info))
        return True
