"""Overrides as people type them, checked one by one and written as Hydra reads them."""

import os
import re
import typing
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from sft_app.common.errors import ConfigError
from sft_app.config.conf_files import conf_dir, group_options, is_there
from sft_app.config.overrides.key_names import check_key
from sft_app.config.overrides.value_types import (
    check_values,
    takes_a_list,
    thousands_in,
    write_out_tokens,
)
from sft_app.config.reference.describe_settings import all_groups, all_settings

_WORD = re.compile(r"(?P<sign>\+\+|\+|)(?P<key>[^=+~\s]+)=(?P<value>.*)", re.DOTALL)
RUN_FOLDERS = ("hydra.run.dir", "hydra.sweep.dir")
_LIST_OR_MAPPING = ("[", "{", "'", '"', "$")


def read_overrides(
    words: Sequence[str], *, own_options: bool = False, may_sweep: bool = True
) -> list[str]:
    """Return the overrides as Hydra has to be given them.

    `own_options`: options that are not in conf/ may come from a folder of the user's own.
    `may_sweep`: a setting may have several values, one for each job. Raises ConfigError for the
    first word that names no setting of ours, or cannot be its value.
    """
    return [_read(word, own_options, may_sweep) for word in words]


def _read(word: str, own_options: bool, may_sweep: bool) -> str:
    written = word
    match = _WORD.fullmatch(word)
    if match is not None:
        value = _as_typed(match["key"], match["value"])
        written = f"{match['sign']}{match['key']}={value}"
    elif word in all_settings():
        raise ConfigError(
            f"'{word}' has no value: write {word}=value, without spaces around the sign. "
            f"sft-train --help {word} tells its values."
        )
    elif not word.startswith("~"):
        raise ConfigError(f"'{word}' is not a setting: write key=value.{_meant(word)}")
    override = _parse(written)
    if match is not None and override is None:
        written = f"{match['sign']}{match['key']}={quoted(match['value'])}"
        override = _parse(written)
    if override is None:
        raise ConfigError(f"'{word}' cannot be read: write key=value, or ~key to leave one out.")
    if override.key_or_group.startswith("hydra"):
        return _below_home(override) or written
    check_key(override, check_options=not own_options)
    check_values(override)
    if override.is_sweep_override() and not may_sweep:
        number = thousands_in(override.key_or_group, word.partition("=")[2])
        if number is not None:
            raise ConfigError(
                f"'{word}' gives several values: one number is written without commas, "
                f"{override.key_or_group}={number}; --multirun would run each."
            )
        raise ConfigError(
            f"'{word}' gives several values: add --multirun to run each, or quote it to mean one, "
            f"{override.key_or_group}=\"'...'\"."
        )
    return f"++{written}" if _adds_a_key(override, written) else written


def _below_home(override: Override) -> str | None:
    """Return an override of a run's folder with `~` written out, which no shell does after `=`."""
    value = override.value()
    is_folder = override.key_or_group in RUN_FOLDERS and isinstance(value, str)
    if not is_folder or not str(value).startswith("~"):
        return None
    whole = os.path.expanduser(str(value))  # noqa: PTH111 (of nobody's home it leaves the name)
    return f"{override.key_or_group}={quoted(whole)}"


def _as_typed(key: str, value: str) -> str:
    """Return a value with amounts of tokens written out, and one word as a list of one."""
    value = write_out_tokens(key, value)
    if key == "evaluation.lengths" and value == "auto":
        return "[]"  # what follows from the training
    plain = value and not value.startswith(_LIST_OR_MAPPING) and "," not in value
    if plain and takes_a_list(key) and value not in ("null", "???") and "(" not in value:
        return f"[{value}]"
    return value


def quoted(value: str) -> str:
    """Return text as Hydra reads it unchanged, whatever characters it has."""
    escaped = re.sub(r"(\\*)'", lambda m: m[1] * 2 + r"\'", value)
    escaped = re.sub(r"(\\+)$", lambda m: m[1] * 2, escaped)
    return f"'{escaped}'"


def _parse(word: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(word)
    except (HydraException, RecursionError):
        return None


def _adds_a_key(override: Override, written: str) -> bool:
    """Tell whether a mapping gets a key, where Hydra would ask for `++trainer.extra...`."""
    if written.startswith(("+", "~")):
        return False
    key = override.key_or_group
    mappings = [
        name
        for name, setting in all_settings().items()
        if typing.get_origin(setting.annotation) is dict
    ]
    return key in mappings or key.startswith(tuple(f"{name}." for name in mappings))


def _meant(word: str) -> str:
    groups = [*(group.name for group in all_groups()), "experiment"]
    with_option = [group for group in groups if word in group_options(group)]
    if with_option:
        return f" Did you mean {with_option[0]}={word}?"
    if word in groups or is_there(conf_dir() / word):
        return f" sft-train --help {word} tells its values."
    if not is_there(Path(word)):
        return " sft-train --help lists them."
    if Path(word).is_dir():
        return f" Did you mean model.name_or_path={word}?"
    return f" Did you mean data.train={word}?"
