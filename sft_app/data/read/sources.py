"""What `data.train` and `data.eval` may say, resolved to files and hub datasets."""

import glob
import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sft_app.common.errors import ConfigError
from sft_app.common.files_below import files_below
from sft_app.config.locations import (
    COMPRESSED_SUFFIXES,
    DATA_SUFFIXES,
    PACKAGE_PREFIX,
    data_suffix,
    hub_dataset,
    package_file,
    saved_dataset,
)
from sft_app.data.read.folders import dataset_files, kind_of_no_data

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Source:
    """Hold one entry of `data.train`, with the files behind it in a fixed order."""

    name: str
    """As the user wrote it."""
    files: tuple[Path, ...]
    """Empty for a dataset of the hub."""
    weight: float = 1.0
    """How often each conversation is used in an epoch: 2 = twice, 0.5 = a half chosen by seed."""
    ignored: dict[str, int] = field(default_factory=dict)
    """Files of the folder or glob that are no data, by kind: hidden, licence_or_readme, ..."""


def resolve_sources(
    value: Any, key: str, *, suffixes: tuple[str, ...] = DATA_SUFFIXES
) -> list[Source]:
    """Turn the value of the setting `key` into sources.

    Accepts a file, a folder (every file below it with one of `suffixes`), a glob, a folder that
    `save_to_disk` of the library datasets wrote (`folder` or `folder:split`), a hub dataset id
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
    files, ignored = _files(entry, key, suffixes)
    return Source(entry, files, weight, ignored)


def _weight(value: Any, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
        raise ConfigError(f"{key} has weight {value!r}, expected a number above 0: 0.5, 2.")
    return float(value)


def _files(
    text: str, key: str, suffixes: tuple[str, ...]
) -> tuple[tuple[Path, ...], dict[str, int]]:
    """The files behind a path, and how many beside them are no data, by kind."""
    path = package_file(text) if text.startswith(PACKAGE_PREFIX) else Path(text).expanduser()
    if path.is_file():
        return (path,), {}
    saved = saved_dataset(text)
    if saved is not None:
        return dataset_files(saved, key), {}
    folders = 0
    if path.is_dir():
        try:
            candidates = [(p, p.relative_to(path)) for p in files_below(path)]
        except OSError as error:
            raise ConfigError(
                f"{key}={text}: {error.filename} cannot be listed ({error.strerror})."
            ) from error
    elif hub_dataset(text) is not None and data_suffix(Path(text)) not in suffixes:
        return (), {}
    elif glob.has_magic(str(path)):
        matches = [Path(p) for p in glob.glob(str(path), recursive=True)]  # noqa: PTH207
        candidates = [(p, Path(p.name)) for p in matches if not p.is_dir()]
        # `**` matches folders beside all that is in them.
        folders = 0 if "**" in text else len(matches) - len(candidates)
    else:
        raise ConfigError(f"{key}={text} does not exist: give a file, folder, glob or hub id.")
    kinds = {found: kind_of_no_data(below, suffixes) for found, below in candidates}
    files = tuple(sorted(found for found, kind in kinds.items() if kind is None))
    ignored = dict(Counter(kind for kind in kinds.values() if kind is not None))
    if folders:
        ignored["folder"] = folders
    gone = next((f for f in files if f.is_symlink() and not f.exists()), None)
    if gone is not None:
        raise ConfigError(
            f"{key}={text} has {gone.name}, a link to {gone.readlink()}, which is not there: "
            "bring it back, or remove the link."
        )
    if not files:
        beside = f" (only {_counts(ignored)})" if ignored else ""
        raise ConfigError(
            f"{key}={text} has no readable file{beside}: expected {', '.join(suffixes)}, "
            f"each also with {', '.join(COMPRESSED_SUFFIXES)}."
        )
    if ignored:
        log.info("%s=%s: files that are no data are left out: %s", key, text, _counts(ignored))
    return files, ignored


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
