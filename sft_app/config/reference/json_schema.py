"""A JSON schema (draft 2020-12) of configuration files, for editors."""

import inspect
import types
import typing
from enum import Enum
from typing import Any

from omegaconf import MISSING

from sft_app.config.reference.describe_settings import (
    Group,
    Setting,
    all_groups,
    all_settings,
    is_union,
    one_line,
)
from sft_app.config.schema.app import AppConfig
from sft_app.config.validation.number_ranges import LARGEST_FLOAT, NUMBER_RANGES, Range

DIALECT = "https://json-schema.org/draft/2020-12/schema"

STAND_INS: dict[str, Any] = {"type": "string", "pattern": r"^\?\?\?$|\$\{"}
"""What may stand for any value: `???` for one to be given, and interpolations."""

DEFAULTS = {
    "description": "Hydra's defaults list: the options that this file builds on.",
    "type": "array",
    "items": {"type": ["string", "object"]},
}
HYDRA = {"description": "Hydra's own settings: hydra.run.dir, hydra.sweeper.params, ..."}
PLAIN = {int: "integer", float: "number", str: "string", bool: "boolean"}


def json_schema() -> dict[str, Any]:
    """Return the schema of conf/config.yaml and of recipes; those of groups stand in its $defs."""
    knobs = [setting for setting in all_settings().values() if not setting.group]
    groups = {group.name: {"$ref": f"#/$defs/{group.name}"} for group in all_groups()}
    return {
        "$schema": DIALECT,
        "title": "sft_app configuration",
        "description": one_line(AppConfig.__doc__),
        "type": "object",
        "properties": {
            "defaults": DEFAULTS,
            "hydra": HYDRA,
            **{setting.name: _property(setting) for setting in knobs},
            **groups,
        },
        "additionalProperties": False,
        "$defs": {
            **{group.name: _group(group) for group in all_groups()},
            "launcher": {
                "description": "Settings of one of Hydra's launchers, as its plugin names them.",
                "type": "object",
            },
        },
    }


def _group(group: Group) -> dict[str, Any]:
    return {
        "description": group.meaning,
        "type": "object",
        "properties": {
            "defaults": DEFAULTS,
            **{setting.name: _property(setting) for setting in group.settings},
        },
        "additionalProperties": False,
    }


def _property(setting: Setting) -> dict[str, Any]:
    described: dict[str, Any] = {"description": setting.meaning}
    if setting.default != MISSING:
        plain = setting.default.name if isinstance(setting.default, Enum) else setting.default
        described["default"] = plain
    kinds = _kinds(setting.annotation, NUMBER_RANGES.get(setting.key))
    return described if kinds is None else {**described, "anyOf": [*kinds, STAND_INS]}


def _kinds(annotation: Any, numbers: Range | None) -> list[dict[str, Any]] | None:
    """Return the alternatives of a type; None where anything goes."""
    if annotation is Any:
        return None
    options = typing.get_args(annotation) if is_union(annotation) else (annotation,)
    return [_kind(option, numbers) for option in options]


def _kind(annotation: Any, numbers: Range | None) -> dict[str, Any]:
    if annotation is types.NoneType:
        return {"type": "null"}
    if inspect.isclass(annotation) and issubclass(annotation, Enum):
        return {"enum": list(annotation.__members__)}
    if typing.get_origin(annotation) is list:
        return {"type": "array", "items": _kind(typing.get_args(annotation)[0], numbers)}
    if annotation in PLAIN:
        limited = _limits(numbers) if numbers is not None and annotation in (int, float) else {}
        return {"type": PLAIN[annotation], **limited}
    return {"type": "object"}


def _limits(numbers: Range) -> dict[str, Any]:
    if numbers.or_else is not None:
        return {}
    limits: dict[str, Any] = {"exclusiveMinimum" if numbers.above else "minimum": numbers.low}
    if numbers.high != LARGEST_FLOAT:
        limits["maximum"] = numbers.high
    return limits
