"""A did-you-mean for keys, groups and their options."""

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

from hydra.core.override_parser.types import Override

from sft_app.common.errors import ConfigError
from sft_app.config.conf_files import group_options, is_there
from sft_app.config.overrides.alias_values import write_as_ours
from sft_app.config.overrides.aliases import OUR_NAME
from sft_app.config.overrides.elsewhere import ELSEWHERE
from sft_app.config.overrides.value_types import fits_as_written
from sft_app.config.reference.describe_settings import all_groups, all_settings, is_union, shown
from sft_app.config.transformers_names import training_argument_names

FILE_KEYS = {
    "model": "model.name_or_path",
    "tokenizer": "tokenizer.name_or_path",
    "data": "data.train",
}
"""Group -> the key for what a user may have meant by a path or hub id."""


def check_key(override: Override, *, check_options: bool) -> None:
    """Raise ConfigError when `override` names no key, group or option of ours.

    `check_options`: not where a folder of the user's own may add some.
    """
    key = override.key_or_group
    options = group_options(key)
    if options:
        # The group without its package, `rope@rope=yarn`, is Hydra's business.
        if check_options:
            _check_options(key, override, options)
        return
    if key in all_settings() or is_inside_open_setting(key):
        return
    written = (override.input_line or key).lstrip("+~").partition("=")[2]
    groups = {group.name: group for group in all_groups()}
    if key in groups:
        name = groups[key].settings[0].key
        raise ConfigError(
            f"'{key}' is a group of settings: set one of its keys, such as {name}=..."
        )
    raise ConfigError(f"'{key}' is not a setting{what_is_meant(key, written)}")


def what_is_meant(key: str, written: str = "") -> str:
    """Return the rest of a sentence that says what stands here for `key=written`.

    Exact names come first: another tool's, with its group (`tokenizer.path`) or without
    (`trainer.lr`), and ours without its group. Only then comes what is spelt alike.
    """
    name = key.lower().replace("-", "_")
    last = name.rpartition(".")[2]
    for alias in (name, last):
        if alias in OUR_NAME:
            ours = OUR_NAME[alias]
            return f"; here it is {ours}: write {_as_ours(alias, ours, written)}"
        if alias in ELSEWHERE:
            return f"; here, {ELSEWHERE[alias]}."
        same = [ours for ours in all_settings() if ours.rpartition(".")[2] == alias]
        if same:
            written_here = [_as_ours(alias, ours, written) for ours in same]
            return f". Did you mean {' or '.join(written_here)}?"
        if alias in training_argument_names():
            return f". Did you mean trainer.extra.{alias}={written or '...'}?"
    return f".{_suggest(key)}"


def _as_ours(alias: str, key: str, written: str) -> str:
    setting = all_settings().get(key)
    default = shown(setting.default) if setting is not None else "null"
    return write_as_ours(
        alias, key, written, fits=fits_as_written, default="..." if default == "null" else default
    )


def is_inside_open_setting(key: str) -> bool:
    """Tell whether `key` lies inside a mapping or list that users fill."""
    return any(key.startswith((name + ".", name + "[")) for name in open_settings())


def open_settings() -> list[str]:
    """List the keys below which a user may write others."""
    return [k for k, setting in all_settings().items() if _is_open(setting.annotation)]


def _is_open(annotation: Any) -> bool:
    options = get_args(annotation) if is_union(annotation) else (annotation,)
    return any(option is Any or get_origin(option) in (dict, list) for option in options)


def _check_options(group: str, override: Override, options: list[str]) -> None:
    for option in _plain_values(override):
        if option in options or option in ("null", "None"):
            continue
        near = difflib.get_close_matches(option, options, n=1)
        hint = f" Did you mean {group}={near[0]}?" if near else ""
        if group in FILE_KEYS and (_looks_like_a_file(option) or is_there(Path(option))):
            hint = f" Your own is {FILE_KEYS[group]}={option}"
        raise ConfigError(
            f"'{option}' is not an option of the group '{group}'."
            + (f"{hint}" if hint.startswith(" Your") else f"{hint} Options: {', '.join(options)}.")
        )


def _looks_like_a_file(word: str) -> bool:
    return "/" in word or "." in word


def _plain_values(override: Override) -> Iterator[str]:
    """Yield the option names in `group=a` or `group=a,b`; none for glob() and other functions."""
    if override.is_sweep_override():
        if override.is_discrete_sweep() and "glob(" not in (override.input_line or ""):
            yield from (str(value) for value in override.sweep_string_iterator())
    elif override.is_delete():
        return
    elif (value := override.value()) is not None and not isinstance(value, list):
        yield str(value)


def _suggest(key: str) -> str:
    keys = sorted(all_settings())
    near = difflib.get_close_matches(key, keys, n=1, cutoff=0.75)
    if not near:  # nearly the right name, in the wrong group or without one
        by_last = {k.rpartition(".")[2]: k for k in keys} | OUR_NAME
        close = difflib.get_close_matches(key.rpartition(".")[2], by_last, n=1, cutoff=0.8)
        near = [by_last[c] for c in close]
    if near:
        return f" Did you mean {near[0]}?"
    group = key.partition(".")[0]
    if key.startswith("trainer."):
        return " Other TrainingArguments go into trainer.extra: trainer.extra.NAME=..."
    if group_options(group):
        members = [k.rpartition(".")[2] for k in keys if k.startswith(group + ".")]
        return f" The group '{group}' has: {', '.join(members)}."
    return " sft-train --help lists the settings."
