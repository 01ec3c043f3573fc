"""Values of overrides: right ones in the words people use, wrong ones in one line."""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any, get_args, get_origin

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override, Transformer
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sft_app.common.errors import ConfigError
from sft_app.config.overrides.alias_values import nearest
from sft_app.config.reference.describe_settings import Setting, all_settings, is_union, shown
from sft_app.config.schema.app import AppConfig
from sft_app.config.validation.number_ranges import NUMBER_RANGES

LENGTHS = (
    "context_length", "model.original_context_length", "tokenizer.model_max_length",
    "evaluation.lengths", "evaluation.stride", "sweep.lengths", "sweep.heldout_length",
    "data.position_target",
)  # fmt: skip
"""Tokens of a row: 16k is 16 x 1024, as models' contexts are named."""
AMOUNTS = (
    "evaluation.max_tokens", "sweep.tokens", "sweep.supervised_tokens", "sweep.tokens_per_step",
)  # fmt: skip
"""Tokens in all: 10M is 10 x 1000 x 1000, and 1B a thousand times 1M."""
_AMOUNT = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)([kKmMbBgG])(?![\w.])")
_NEARLY = re.compile(r"(\d+(?:\.\d+)?) ?([kKmM])(?:i|[iI]?[bB]|[tT]| ?[tT]okens?)?")
_IN_THOUSANDS = re.compile(r"\d{1,3}(,\d{3})+")


def write_out_tokens(key: str, value: str) -> str:
    """Return the text of a value with `16k` and `1M` written out, where tokens are counted."""
    if key not in LENGTHS and key not in AMOUNTS:
        return value
    thousand = 1024 if key in LENGTHS else 1000
    powers = {"k": 1, "m": 2} if key in LENGTHS else {"k": 1, "m": 2, "b": 3, "g": 3}

    def number(match: re.Match[str]) -> str:
        power = powers.get(match[2].lower())
        if power is None:
            return match[0]
        times = thousand**power
        exact = float(match[1]) * times
        return str(int(exact)) if exact.is_integer() else match[0]

    return _AMOUNT.sub(number, value)


def takes_a_list(key: str) -> bool:
    """Tell whether a setting is a list, so that one word can stand for a list of one."""
    setting = all_settings().get(key)
    return setting is not None and any(get_origin(o) is list for o in _options(setting))


def check_values(override: Override) -> None:
    """Raise ConfigError when a value does not fit its setting, saying what does."""
    key = override.key_or_group
    setting = all_settings().get(key)
    if setting is None or override.is_delete():
        return
    if "glob(" in (override.input_line or "") and _has_glob(override):
        raise ConfigError(
            f"{key}: glob() lists the options of a group, and {key} is a setting: list its values "
            f"with commas, {key}=a,b"
        )
    for value in _values(override):
        if not _fits(key, value):
            raise ConfigError(f"{key}={shown(value)} is not possible.{_what_fits(setting, value)}")


def fits_as_written(key: str, text: str) -> bool:
    """Tell whether the text of an override's right side can be the value of `key`."""
    setting = all_settings().get(key)
    if setting is None:
        return True
    as_list = takes_a_list(key) and not text.startswith(("[", "{", "'", '"', "$"))
    text = f"[{text}]" if as_list else text
    try:
        override = OverridesParser.create().parse_override(f"{key}={write_out_tokens(key, text)}")
        values = list(_values(override))
    except (HydraException, RecursionError):
        return False
    limits = NUMBER_RANGES.get(key)
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    return all(_fits(key, value) for value in values) and (
        limits is None or all(number in limits for number in numbers)
    )


def _has_glob(override: Override) -> bool:
    return isinstance(override.value(), Glob)


def _values(override: Override) -> Iterator[Any]:
    if not override.is_sweep_override():
        yield override.value()
    elif not isinstance(override.value(), IntervalSweep | Glob):
        yield from override.sweep_iterator(transformer=Transformer.identity)


@cache
def _schema() -> Any:
    return OmegaConf.structured(AppConfig)


def _fits(key: str, value: Any) -> bool:
    if isinstance(value, str) and ("${" in value or value == "???"):
        return True
    if bool in _options(all_settings()[key]) and isinstance(value, int | float):
        return value in (0, 1)  # any number would do for OmegaConf
    if "." in key and OmegaConf.is_missing(_schema(), key.partition(".")[0]):
        group, _, name = key.partition(".")
        holder: Any = OmegaConf.structured(_annotation_of_group(group))
    else:
        holder, name = _schema().copy(), key
    try:
        OmegaConf.update(holder, name, value, merge=False)
    except (OmegaConfBaseException, ValueError, TypeError):
        return False
    return True


def _annotation_of_group(group: str) -> Any:
    from sft_app.config.reference.describe_settings import all_groups

    return next(g.schema for g in all_groups() if g.name == group)


def _what_fits(setting: Setting, value: Any) -> str:
    if setting.choices:
        allowed = [*setting.choices, *(["null"] if type(None) in _options(setting) else [])]
        near = nearest(setting.key, shown(value), allowed)
        hint = f" Did you mean {setting.key}={near}?" if near else ""
        return f"{hint} Allowed: {', '.join(allowed)}."
    allowed_range = NUMBER_RANGES.get(setting.key)
    limits = f" {allowed_range}" if allowed_range else ""
    if setting.key in (*LENGTHS, *AMOUNTS):
        return _what_tokens_fit(setting, value, limits)
    example = f", such as {setting.key}=[a, b]" if takes_a_list(setting.key) and not limits else ""
    return f" It takes a {setting.kind}{limits}{example}."


def what_fits_in_a_file(key: str, value: str) -> str:
    """Return what a key takes in a YAML file, where amounts of tokens are whole numbers."""
    setting = all_settings().get(key)
    if setting is None:
        return ""
    nearly = _NEARLY.fullmatch(value)
    number = write_out_tokens(key, f"{nearly[1]}{nearly[2]}" if nearly else value)
    if number != value and fits_as_written(key, number):
        return f" In a file, write {key}: {number}"
    return _what_fits(setting, value)


def _what_tokens_fit(setting: Setting, value: Any, limits: str) -> str:
    """Return what a number of tokens is, and the one that `16kb` or `16 k` may mean."""
    nearly = _NEARLY.fullmatch(str(value))
    near = f"{nearly[1]}{nearly[2]}" if nearly else ""
    if near and fits_as_written(setting.key, near):
        return f" Did you mean {setting.key}={near}?"
    numbers = ("8192", "16k") if setting.key in LENGTHS else ("1000000", "10M")
    first, second = numbers
    example = f"[{', '.join(numbers)}]" if takes_a_list(setting.key) else f"{first} or {second}"
    return f" It takes a {setting.kind}{limits}, such as {example}."


def thousands_in(key: str, text: str) -> str | None:
    """Return the number that `16,384` means, where tokens are counted; None for other texts."""
    if key not in (*LENGTHS, *AMOUNTS) or not _IN_THOUSANDS.fullmatch(text):
        return None
    return text.replace(",", "")


def _options(setting: Setting) -> tuple[Any, ...]:
    annotation = setting.annotation
    return get_args(annotation) if is_union(annotation) else (annotation,)
