"""A did-you-mean for command-line overrides, before Hydra composes anything.

Hydra refuses unknown keys too, but names neither the nearest key nor the override that works. This
check knows the schema and the group folders only; whatever it does not understand it leaves to
Hydra.
"""

import dataclasses
import difflib
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import OverrideParseException

from sft_app.common.errors import ConfigError
from sft_app.config.schema.app import AppConfig

CONF_DIR = Path(__file__).parents[2] / "conf"
"""In a checkout; an installed wheel has it inside the package (see `conf_dir`)."""


def conf_dir() -> Path:
    """Return the folder of the YAML groups, in a checkout as well as in an installed wheel."""
    installed = Path(__file__).parents[1] / "conf"
    return installed if installed.is_dir() else CONF_DIR


def check_overrides(arguments: Sequence[str]) -> None:
    """Raise ConfigError for the first override that names no key, group or option of ours.

    `arguments` is the command line without the program's name. A user's own folder of options
    (--config-dir, hydra.searchpath) switches the check of options off, not that of keys.
    """
    words = [a for a in arguments if not a.startswith("-") and ("=" in a or a.startswith("~"))]
    own_options = any(a.startswith(("--config-dir", "-cd", "hydra.searchpath")) for a in arguments)
    parser = OverridesParser.create()
    for word in words:
        try:
            override = parser.parse_override(word)
        except OverrideParseException:
            continue  # Hydra explains its own grammar best.
        if not override.key_or_group.startswith("hydra"):
            _check_override(override, check_options=not own_options)


def _check_override(override: Override, *, check_options: bool) -> None:
    key = override.key_or_group
    options = group_options(key)
    if options:
        # The group without its package, `rope@rope=yarn`, is Hydra's business.
        if check_options:
            _check_option(key, override, options)
        return
    if key in _leaf_keys() or _is_inside_dict(key):
        return
    if key in {name for name, _ in _settings(AppConfig, "", with_groups=True)}:
        raise ConfigError(
            f"'{key}' is a group of settings: choose one of its options, or set one of its keys, "
            f"such as {next(k for k in sorted(_leaf_keys()) if k.startswith(key + '.'))}=..."
        )
    raise ConfigError(f"'{key}' is not a setting.{_suggest(key)}")


def _check_option(group: str, override: Override, options: list[str]) -> None:
    for option in _plain_values(override):
        if option not in options and option not in ("null", "None"):
            near = difflib.get_close_matches(option, options, n=1)
            hint = f" Did you mean {group}={near[0]}?" if near else ""
            raise ConfigError(
                f"'{option}' is not an option of the group '{group}'.{hint} "
                f"Options: {', '.join(options)}."
            )


def _plain_values(override: Override) -> list[str]:
    """Return the option names in `group=a` or `group=a,b`; empty for glob() and other functions."""
    if override.is_sweep_override():
        if not override.is_discrete_sweep() or "glob(" in (override.input_line or ""):
            return []
        return [str(value) for value in override.sweep_string_iterator()]
    value = override.value()
    return [value] if isinstance(value, str) else []


def group_options(group: str) -> list[str]:
    """List the YAML files of a group without their suffix; empty when there is no such group."""
    folder = conf_dir() / group
    return sorted(f.stem for f in folder.glob("*.yaml")) if group and folder.is_dir() else []


def _leaf_keys() -> set[str]:
    return {name for name, _ in _settings(AppConfig, "", with_groups=False)}


def _is_inside_dict(key: str) -> bool:
    dicts = [n for n, t in _settings(AppConfig, "", with_groups=False) if _is_open(t)]
    return any(key.startswith((name + ".", name + "[")) for name in dicts)


def _is_open(annotation: typing.Any) -> bool:
    return annotation is typing.Any or typing.get_origin(annotation) in (dict, list)


def _settings(schema: type, prefix: str, *, with_groups: bool) -> Iterator[tuple[str, typing.Any]]:
    """Yield dotted names and annotations of every setting below a dataclass."""
    annotations = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        annotation = annotations[field.name]
        if dataclasses.is_dataclass(annotation):
            if with_groups:
                yield prefix + field.name, annotation
            assert isinstance(annotation, type)
            yield from _settings(annotation, f"{prefix}{field.name}.", with_groups=with_groups)
        else:
            yield prefix + field.name, annotation


def _suggest(key: str) -> str:
    keys = sorted(_leaf_keys())
    near = difflib.get_close_matches(key, keys, n=1, cutoff=0.75)
    if not near:  # the right name in the wrong group, or without one
        last = key.rpartition(".")[2]
        same = [k for k in keys if k.rpartition(".")[2] == last]
        by_last = {k.rpartition(".")[2]: k for k in keys}
        close = difflib.get_close_matches(last, by_last, n=1, cutoff=0.75)
        near = same[:1] or [by_last[c] for c in close]
    if near:
        return f" Did you mean {near[0]}?"
    group = key.partition(".")[0]
    if key.startswith("trainer."):
        return " Other TrainingArguments go into trainer.extra: trainer.extra.NAME=..."
    if group_options(group):
        members = [k.rpartition(".")[2] for k in keys if k.startswith(group + ".")]
        return f" The group '{group}' has: {', '.join(members)}."
    return " sft-train --help lists the settings."


def open_dict_overrides(arguments: Sequence[str]) -> list[str]:
    """Let `trainer.extra.NAME=value` add a key, where Hydra would ask for `++trainer.extra...`."""
    dicts = {
        name
        for name, annotation in _settings(AppConfig, "", with_groups=False)
        if typing.get_origin(annotation) is dict
    }

    def adds_keys(argument: str) -> bool:
        key = argument.partition("=")[0]
        return key in dicts or key.startswith(tuple(f"{name}." for name in dicts))

    return [f"++{a}" if adds_keys(a) else a for a in arguments]
