"""Check a dataclass that was filled from a file against its own type annotations.

A reader of files that people and crashes may have touched wants to fail here, with a name, and
not later inside a figure.
"""

import dataclasses
import types
import typing
from functools import lru_cache
from typing import Any


def check_types(value: object, declared: Any, name: str) -> None:
    """Raise ValueError, naming the field, when `value` is not what `declared` says."""
    origin, arguments = typing.get_origin(declared), typing.get_args(declared)
    if origin in (typing.Union, types.UnionType):
        _check_union(value, arguments, name)
    elif origin is dict:
        _expect(isinstance(value, dict), value, declared, name)
        assert isinstance(value, dict)
        for key, item in value.items():
            check_types(key, arguments[0], f"a key of {name}")
            check_types(item, arguments[1], f"{name}.{key}")
    elif origin is list:
        _expect(isinstance(value, list), value, list, name)
        assert isinstance(value, list)
        for number, item in enumerate(value):
            check_types(item, arguments[0], f"{name}[{number}]")
    elif dataclasses.is_dataclass(declared):
        assert isinstance(declared, type)
        _expect(isinstance(value, declared), value, declared, name)
        for field, annotation in _annotations(declared).items():
            check_types(getattr(value, field), annotation, f"{name}.{field}" if name else field)
    elif declared is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        _expect(number, value, declared, name)
    else:
        _expect(isinstance(value, declared), value, declared, name)


def _check_union(value: object, options: tuple[Any, ...], name: str) -> None:
    if value is None and types.NoneType in options:
        return
    kinds = [option for option in options if option is not types.NoneType]
    if len(kinds) == 1:
        check_types(value, kinds[0], name)
    else:
        _expect(isinstance(value, tuple(kinds)), value, options, name)


def _expect(holds: bool, value: object, declared: Any, name: str) -> None:
    if not holds:
        wanted = getattr(declared, "__name__", str(declared))
        raise ValueError(f"{name} is {type(value).__name__}, not {wanted}")


@lru_cache
def _annotations(dataclass: type) -> dict[str, Any]:
    return typing.get_type_hints(dataclass)
