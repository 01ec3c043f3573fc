"""Values that stand in the environment, such as tokens: used by a run, and never written by it.

`${oc.env:NAME}` in a configuration is resolved like any other interpolation, but the text that it
gives remembers where it came from: files of a run hold the reference, and their reader resolves it
again.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

from sft_app.common.secrets import note_references

SHORTEST_SECRET = 4
"""Characters; a shorter value is found in other texts by chance."""


class FromEnvironment(str):
    """A text that was resolved from the environment; `reference` is what the user wrote."""

    __slots__ = ("reference",)
    reference: str

    def __new__(cls, value: str, reference: str = "") -> "FromEnvironment":
        """Make a text that is `value` to everybody who uses it."""
        made = super().__new__(cls, value)
        made.reference = reference
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle the reference along."""
        return FromEnvironment, (str(self), self.reference)


def mark(resolved: Any, written: Any) -> Any:
    """Return `resolved` with every text that comes from the environment marked, in place.

    `written` is the same configuration before its interpolations were resolved. A text that another
    interpolation takes from a marked one is marked as well.
    """
    values: set[str] = set()
    marked = _marked(resolved, written, lambda text, value: "${oc.env:" in text, values)
    secrets = {value for value in values if len(value) >= SHORTEST_SECRET}
    return _marked(
        marked, written, lambda text, value: any(secret in value for secret in secrets), values
    )


def as_written(value: Any) -> Any:
    """Return `value`, or a configuration as dictionaries, with references where they were."""
    if isinstance(value, FromEnvironment):
        return value.reference
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: as_written(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: as_written(item) for key, item in value.items()}
    return [as_written(item) for item in value] if isinstance(value, list) else value


def plain(value: Any) -> Any:
    """Return a copy of a configuration, or a part of it, with ordinary texts."""
    if isinstance(value, FromEnvironment):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return dataclasses.replace(value, **{f.name: plain(getattr(value, f.name)) for f in fields})
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def references(value: Any, prefix: str = "") -> dict[str, str]:
    """Return the references in a configuration by their keys, as OmegaConf.update takes them."""
    texts = texts_by_key(value, prefix)
    return {key: text.reference for key, text in texts if isinstance(text, FromEnvironment)}


def texts_by_key(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text in a configuration with its key, such as `data.train.0`."""
    if isinstance(value, str):
        yield prefix, value
    items: list[tuple[Any, Any]] = []
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    elif isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    for key, item in items:
        yield from texts_by_key(item, f"{prefix}.{key}" if prefix else str(key))


def _marked(resolved: Any, written: Any, is_secret: Any, values: set[str]) -> Any:
    if isinstance(resolved, str) and isinstance(written, str):
        note_references(written)
        if "${" in written and type(resolved) is str and is_secret(written, resolved):
            values.add(resolved)
            return FromEnvironment(resolved, written)
        return resolved
    if dataclasses.is_dataclass(resolved) and isinstance(written, dict):
        for field in dataclasses.fields(resolved):
            own = getattr(resolved, field.name)
            setattr(resolved, field.name, _marked(own, written.get(field.name), is_secret, values))
    elif isinstance(resolved, dict) and isinstance(written, dict):
        for key in resolved:
            resolved[key] = _marked(resolved[key], written.get(key), is_secret, values)
    elif isinstance(resolved, list) and isinstance(written, list):
        resolved[:] = [
            _marked(r, w, is_secret, values) for r, w in zip(resolved, written, strict=True)
        ]
    return resolved
