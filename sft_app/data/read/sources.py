"""What `data.train` and `data.eval` may say, resolved to files and hub datasets."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft_app.common.errors import ConfigError
from sft_app.config.locations import (
    COMPRESSED_SUFFIXES,
    DATA_SUFFIXES,
    PACKAGE_PREFIX,
    data_suffix,
    hub_dataset,
    package_file,
)


@dataclass(frozen=True, slots=True)
class Source:
    """Hold one entry of `data.train`, with the files behind it in a fixed order."""

    name: str
    """As the user wrote it."""
    files: tuple[Path, ...]
    """Empty for a dataset of the hub."""
    weight: float = 1.0
    """How often each conversation is used in an epoch: 2 = twice, 0.5 = a half chosen by seed."""


def resolve_sources(
    value: Any, key: str, *, suffixes: tuple[str, ...] = DATA_SUFFIXES
) -> list[Source]:
    """Turn the value of the setting `key` into sources.

    Accepts a file, a folder (every file below it with one of `suffixes`), a glob, a hub dataset id
    (`org/name`, `org/name:split` or `org/name/config:split`), `pkg://package/inner/path`, or a list
    of these, each alone or as `{path: ..., weight: ...}`.

    Raises ConfigError for anything that does not exist.
    """
    entries = value if isinstance(value, list | tuple) else [value]
    if not entries:
        raise ConfigError(f"{key} is an empty list: give at least one file, folder or dataset id.")
    return [_resolve_entry(entry, key, suffixes) for entry in entries]


def _resolve_entry(entry: Any, key: str, suffixes: tuple[str, ...]) -> Source:
    weight = 1.0
    if isinstance(entry, dict):
        unknown = set(entry) - {"path", "weight"}
        if "path" not in entry or unknown:
            raise ConfigError(
                f"{key} has the entry {entry!r}, expected a path or {{path: ..., weight: ...}}."
            )
        weight = _weight(entry.get("weight", 1.0), key)
        entry = entry["path"]
    if not isinstance(entry, str) or not entry:
        raise ConfigError(f"{key}={entry!r} is not a path: give a file, folder, glob or hub id.")
    return Source(entry, _files(entry, key, suffixes), weight)


def _weight(value: Any, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
        raise ConfigError(f"{key} has weight {value!r}, expected a number above 0: 0.5, 2.")
    return float(value)


def _files(text: str, key: str, suffixes: tuple[str, ...]) -> tuple[Path, ...]:
    is_package = text.startswith(PACKAGE_PREFIX)
    path = package_file(text) if is_package else Path(text).expanduser()
    if path.is_file():
        return (path,)
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.is_file() and data_suffix(p) in suffixes)
    elif hub_dataset(text) is not None and data_suffix(Path(text)) not in suffixes:
        return ()
    else:
        raise ConfigError(f"{key}={text} does not exist: give a file, folder, glob or hub id.")
    if not found:
        raise ConfigError(
            f"{key}={text} has no readable file: expected {', '.join(suffixes)}, "
            f"each also with {' or '.join(COMPRESSED_SUFFIXES)}."
        )
    return tuple(found)
