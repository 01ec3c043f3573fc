"""Variables and dates of a chat template: fixed while training, open again in what is saved.

`tokenizer.chat_template_kwargs` are written into the template itself, so that every use of the
tokenizer (training, evaluation, the token cache's key) sees the same ones. What is saved has them
as defaults: whoever serves the model may still give others, and dates are today's again.
"""

import re
from dataclasses import dataclass
from datetime import date
from typing import Any

from sft_app.common.errors import ConfigError

KEY = "tokenizer.chat_template_kwargs"
FIXED_DATE = date(2024, 7, 26)
"""What Llama 3's templates take where there is no clock. Today's would change the tokens, and with
them the cache and the comparison of two runs, at midnight."""

_CLOCK = re.compile(r"""strftime_now\(\s*(["'])(?P<format>[^"']*)\1\s*\)""")
_NAME = re.compile(r"[A-Za-z_]\w*")
_GIVEN_BY_US = ("messages", "tools", "add_generation_prompt", "documents", "chat_template")


@dataclass(frozen=True, kw_only=True)
class TemplateTexts:
    """One template twice, and what was fixed in it."""

    training: str
    saved: str
    fixed: tuple[str, ...]
    """In words, for the plan."""
    warnings: tuple[str, ...] = ()


def fix_variables(template: str, kwargs: dict[str, Any]) -> TemplateTexts:
    """Write `kwargs` into `template`, and a fixed date in place of its clock.

    A date comes from `date_string` where that is given as YYYY-MM-DD.

    Raises ConfigError for names that a template cannot have, or that are not the user's to give.
    """
    for name in kwargs:
        if not _NAME.fullmatch(name) or name in _GIVEN_BY_US:
            raise ConfigError(
                f"{KEY}: {name!r} cannot be given; name a variable that the chat template itself "
                "reads, such as enable_thinking, date_string or reasoning_effort."
            )
    hard = "".join(f"{{%- set {n} = {_literal(v)} -%}}" for n, v in kwargs.items())
    soft = "".join(
        f"{{%- set {n} = {n} if {n} is defined else {_literal(v)} -%}}" for n, v in kwargs.items()
    )
    fixed = [f"{name}={value}" for name, value in kwargs.items()]
    unread = [name for name in kwargs if not re.search(rf"\b{name}\b", template)]
    warnings = [f"{KEY}.{name}: the chat template does not read it." for name in unread]
    day = _day(kwargs.get("date_string"))
    dated = _CLOCK.sub(lambda found: _literal(day.strftime(found["format"])), template)
    if dated != template:
        fixed.append(f"its date is {day.isoformat()} (another: +{KEY}.date_string=YYYY-MM-DD)")
    if "strftime_now(" in dated:
        warnings.append(
            "the chat template asks for the time in a way that cannot be fixed: its text, and the "
            "cached tokens, may change with the date."
        )
    return TemplateTexts(
        training=hard + dated, saved=soft + template, fixed=tuple(fixed), warnings=tuple(warnings)
    )


def _day(given: object) -> date:
    try:
        return date.fromisoformat(str(given))
    except ValueError:
        return FIXED_DATE


def _literal(value: Any) -> str:
    """Return `value` as Jinja writes it."""
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str():
            escaped = value.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
            return f"'{escaped}'"
        case list():
            return "[" + ", ".join(_literal(item) for item in value) + "]"
        case dict():
            pairs = (f"{_literal(str(k))}: {_literal(v)}" for k, v in value.items())
            return "{" + ", ".join(pairs) + "}"
    raise ConfigError(f"{KEY}: {value!r} is of a kind that no template can be given.")
