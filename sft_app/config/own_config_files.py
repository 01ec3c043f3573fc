"""A user's own folder of configurations, before Hydra reads it: no file that would never be read.

A few lines of YAML whose aliases repeat each other mean billions of values; Hydra would expand them
until memory ran out, without a word.
"""

from pathlib import Path

import yaml

from sft_app.common.errors import ConfigError

MOST_BYTES = 2**20
MOST_VALUES = 100_000
"""In one file, those that an alias repeats counted each time."""
MOST_DEPTH = 64


def check_config_dir(folder: Path) -> None:
    """Raise ConfigError for the first YAML file below `folder` that no configuration can be.

    Files with wrong syntax are left to Hydra, which reads those that are asked for.
    """
    for path in sorted(folder.rglob("*.yaml")):
        if path.is_file():
            _check_file(path)


def _check_file(path: Path) -> None:
    if path.stat().st_size > MOST_BYTES:
        raise ConfigError(f"{path} has more than {MOST_BYTES:,} bytes: it is no configuration.")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} is no UTF-8 text (byte {error.start:,}): correct it, or move it elsewhere."
        ) from error
    try:
        values = _count_values(text, path)
    except yaml.YAMLError:
        return
    if values > MOST_VALUES:
        raise ConfigError(
            f"{path} stands for more than {MOST_VALUES:,} values, with those that its aliases "
            "repeat: no configuration has as many."
        )


def _count_values(text: str, path: Path) -> int:
    """Count the values of a file, expanded, without expanding them."""
    anchored: dict[str, int] = {}
    sizes = [0]
    anchors: list[str | None] = [None]
    before: yaml.Event | None = None
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            if len(sizes) > MOST_DEPTH:
                raise ConfigError(f"{path} is nested deeper than {MOST_DEPTH} levels.")
            sizes.append(1)
            anchors.append(event.anchor)
        elif isinstance(event, yaml.CollectionEndEvent):
            size, anchor = sizes.pop(), anchors.pop()
            sizes[-1] += size
            if anchor is not None:
                anchored[anchor] = size
        elif isinstance(event, yaml.AliasEvent):
            sizes[-1] += anchored.get(event.anchor or "", 1)
        elif isinstance(event, yaml.ScalarEvent):
            if isinstance(before, yaml.DocumentStartEvent) and event.value:
                raise ConfigError(
                    f"{path} holds {event.value!r:.50} and nothing else, and a configuration is "
                    "names and values: write key: value."
                )
            sizes[-1] += 1
            if event.anchor is not None:
                anchored[event.anchor] = 1
        before = event
    return sizes[0]
