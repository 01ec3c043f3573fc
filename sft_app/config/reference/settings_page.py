"""docs/reference/settings.md: every setting, as --help tells it."""

from collections.abc import Mapping
from typing import Any

from sft_app.config.conf_files import group_options
from sft_app.config.reference.describe_settings import Setting, all_groups, all_settings
from sft_app.config.reference.help_pages import (
    allowed_values,
    composed_values,
    describe_default,
    option_summary,
)

HEAD = """\
# Settings

<!-- Written by `python -m sft_app.config.reference` from the schema's docstrings: edit those. -->

Every setting, with its type, its default and its meaning: what `sft-train --help`, `--help trainer`
and `--help trainer.loss_head` say. Change one with `key=value` on the command line, or in a YAML
file of your own below `--config-dir`. `sft-train --schema` prints a JSON schema with which editors
complete and check such files: begin one with
`# yaml-language-server: $schema=PATH/schema.json#/$defs/trainer`.

Where tokens are counted, `16k` and `1M` may be written for 16384 and 1048576.
"""


def settings_page() -> str:
    """Return the page in Markdown."""
    values = composed_values([])
    parts = [HEAD]
    parts += [_setting(setting, values) for setting in all_settings().values() if not setting.group]
    for group in all_groups():
        parts.append(f"## {group.name}\n\n{group.meaning}\n")
        options = group_options(group.name)
        if len(options) > 1:
            parts.append(_options(group.name, options))
        parts += [_setting(setting, values) for setting in group.settings]
    return "\n".join(parts)


def _options(group: str, options: list[str]) -> str:
    rows = [
        f"| `{group}={option}` | {_cell(option_summary(group, option))} |" for option in options
    ]
    return "\n".join(["| option | |", "| --- | --- |", *rows, ""])


def _setting(setting: Setting, values: Mapping[str, Any]) -> str:
    """Return a setting under a heading, for links: `settings.md#trainerloss_head`."""
    default = describe_default(setting, values)
    lines = [f"### `{setting.key}`", "", f"{setting.meaning}", ""]
    lines += [f"Default: `{default}`. Type: {allowed_values(setting)}.", ""]
    rows = [f"- `{choice}`: {text}" for choice, text in setting.choices.items() if text]
    return "\n".join([*lines, *rows, *([""] if rows else [])])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
