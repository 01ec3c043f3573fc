"""Every setting with its type, allowed values, default and meaning, read from the schema."""

import ast
import dataclasses
import importlib.util
import inspect
import itertools
import sys
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from sft_app.config.schema.app import AppConfig


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One key of the configuration."""

    key: str
    """Dotted: trainer.loss_head."""
    annotation: Any
    default: Any
    """MISSING where the schema has none."""
    meaning: str
    """The whole docstring, in one line."""
    choices: dict[str, str]
    """Value -> what it means; empty where values are not counted."""

    @property
    def group(self) -> str:
        """Return the group's name; empty for the knobs above the groups."""
        return self.key.rpartition(".")[0]

    @property
    def name(self) -> str:
        """Return the key without its group."""
        return self.key.rpartition(".")[2]

    @property
    def summary(self) -> str:
        """Return the first clause of the meaning: what fits beside the key."""
        return first_sentence(self.meaning)

    @property
    def kind(self) -> str:
        """Return the type in words: number, list of numbers, text, one of the choices, ..."""
        return kind(self.annotation)


@dataclass(frozen=True, kw_only=True)
class Group:
    """A group of settings: a dataclass of the schema, and a folder of conf/."""

    name: str
    schema: type
    meaning: str
    settings: tuple[Setting, ...]


@cache
def all_groups() -> tuple[Group, ...]:
    """List the groups in the order of the schema."""
    annotations = typing.get_type_hints(AppConfig)
    return tuple(
        _group(field.name, annotations[field.name])
        for field in dataclasses.fields(AppConfig)
        if dataclasses.is_dataclass(annotations[field.name])
    )


@cache
def all_settings() -> dict[str, Setting]:
    """Map every key, the knobs above the groups first, to its setting."""
    knobs = [s for s in _settings(AppConfig, "") if not dataclasses.is_dataclass(s.annotation)]
    found = [*knobs, *(setting for group in all_groups() for setting in group.settings)]
    return {setting.key: setting for setting in found}


def _group(name: str, schema: Any) -> Group:
    return Group(
        name=name,
        schema=schema,
        meaning=one_line(schema.__doc__),
        settings=tuple(_settings(schema, f"{name}.")),
    )


def _settings(schema: Any, prefix: str) -> Iterator[Setting]:
    annotations = typing.get_type_hints(schema)
    meanings = member_docstrings(schema)
    for field in dataclasses.fields(schema):
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        annotation = annotations[field.name]
        yield Setting(
            key=prefix + field.name,
            annotation=annotation,
            default=MISSING if default is dataclasses.MISSING else default,
            meaning=meanings.get(field.name, ""),
            choices=_choices(annotation),
        )


def _choices(annotation: Any) -> dict[str, str]:
    for option in typing.get_args(annotation) or (annotation,):
        if inspect.isclass(option) and issubclass(option, Enum):
            meanings = member_docstrings(option)
            return {name: meanings.get(name, "") for name in option.__members__}
    if annotation is bool:
        return {"true": "", "false": ""}
    return {}


@cache
def member_docstrings(owner: type) -> dict[str, str]:
    """Map the members of a class to the strings that stand beneath them in its source.

    Python itself keeps docstrings of classes and functions only.
    """
    body = next(
        node.body
        for node in _parsed(owner.__module__).body
        if isinstance(node, ast.ClassDef) and node.name == owner.__name__
    )
    found: dict[str, str] = {}
    for member, following in itertools.pairwise(body):
        name = _assigned_name(member)
        if name and isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            found[name] = one_line(str(following.value.value))
    return found


@cache
def _parsed(module: str) -> ast.Module:
    spec = importlib.util.find_spec(module) if module not in sys.modules else None
    file = spec.origin if spec else sys.modules[module].__file__
    assert file is not None, "the schema is written in Python"
    return ast.parse(Path(file).read_text(encoding="utf-8"))


def _assigned_name(statement: ast.stmt) -> str | None:
    target: ast.expr | None = None
    if isinstance(statement, ast.AnnAssign):
        target = statement.target
    elif isinstance(statement, ast.Assign):
        target = statement.targets[0]
    return target.id if isinstance(target, ast.Name) else None


def kind(annotation: Any) -> str:
    """Return a type in words."""
    options = typing.get_args(annotation) if is_union(annotation) else (annotation,)
    words = [_kind_of_one(option) for option in options if option is not types.NoneType]
    return " or ".join([*words, *(["null"] if types.NoneType in options else [])])


def is_union(annotation: Any) -> bool:
    """Tell whether a type is a union, in either spelling."""
    return typing.get_origin(annotation) in (types.UnionType, typing.Union)


def _kind_of_one(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is list:
        return f"list of {_kind_of_one(arguments[0])}s" if arguments else "list"
    if origin is dict:
        return "mapping of names to values"
    if inspect.isclass(annotation) and issubclass(annotation, Enum):
        return "one of the values below"
    return {int: "whole number", float: "number", str: "text", bool: "true or false"}.get(
        annotation, "see the text"
    )


def one_line(text: str | None) -> str:
    """Return a docstring without its line breaks."""
    return " ".join((text or "").split())


def first_sentence(text: str) -> str:
    """Return the text up to its first full stop, or semicolon."""
    for end in (". ", "; "):
        text = text.partition(end)[0]
    return text.rstrip(".;")


def shown(value: Any) -> str:
    """Return a value as it is typed on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, list):
        return f"[{', '.join(shown(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {shown(item)}' for key, item in value.items())}}}"
    return "(to be given)" if value == MISSING else str(value)
