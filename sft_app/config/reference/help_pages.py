"""--help: every setting with its meaning; --help GROUP and --help KEY: the whole of it.

Hydra's own help reads every option of every group several times over, which takes seconds, and
knows values only.
"""

import shutil
import textwrap
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import hydra
from omegaconf import OmegaConf

from sft_app.common.errors import ConfigError
from sft_app.config.conf_files import conf_dir, group_options
from sft_app.config.reference.describe_settings import (
    Group,
    Setting,
    all_groups,
    all_settings,
    shown,
)
from sft_app.config.schema.app import register_schema
from sft_app.config.validation.number_ranges import NUMBER_RANGES

ABOUT = {
    "sft-train": """\
sft-train fine-tunes a causal language model on chat data, at a context length of your choice.

  sft-train model.name_or_path=/some/dir data.train=/some/chat.json context_length=8192
  sft-train experiment=demo                      the embedded model and data, about 2 minutes
  sft-train --multirun context_length=4096,8192 rope=linear,yarn
  sft-plan  with the same words: what would be done, without loading weights

  sft-train --help GROUP, --help KEY             all about them: --help rope, --help rope.factor
  sft-train --cfg job                            the configuration that these words make
  sft-train --schema                             a JSON schema of it, for editors""",
    "sft-plan": """\
sft-plan says what sft-train would do with the same words, without loading weights: the positions
(RoPE method and factor), the tokenizer's pad token, the attention, the data (records kept, dropped
and split, tokens, packed rows), the memory and the time. It writes nothing.

  sft-plan model.name_or_path=/some/dir data.train=/some/chat.json context_length=8192
  sft-plan ... data.preview=3                    three examples, label by label
  sft-plan --multirun context_length=4096,8192   one plan after the other
  sft-plan --help GROUP, --help KEY              all about them: --help rope, --help rope.factor

It exits with 0, or with 1 or 2 and one message when the job cannot be done as asked.""",
    "sft-eval": """\
sft-eval measures a checkpoint, ours or not, as a run does before and after training: RULER-style
tasks and perplexity by length, the effective length, and conversations where data are named. The
context length is the model's own unless one is given. It leaves eval.json in outputs/evaluations/.

  sft-eval model.name_or_path=/some/dir                     four tasks at four lengths
  sft-eval model.name_or_path=/some/dir evaluation=long     eight tasks, LongPPL
  sft-eval ... evaluation.documents=/some/texts evaluation.lengths=[4096,16384,32768]
  sft-eval ... context_length=32768 rope=yarn               extended, without training
  sft-eval --help evaluation                                what can be chosen""",
}
LEFT_COLUMN = 40


def help_text(program: str, overrides: Sequence[str]) -> str:
    """Return the help, with the settings as these overrides make them.

    Raises Hydra's own exceptions when they do not compose.
    """
    values = composed_values(overrides)
    lines = [ABOUT.get(program, ABOUT["sft-train"]), ""]
    lines += ["== Groups: choose with group=option ==", "", *_groups(), ""]
    lines += ["== Settings: change with key=value ==", ""]
    for setting in all_settings().values():
        if not setting.group:
            lines += _setting_line(setting, values)
    for group in all_groups():
        lines += ["", f"{group.name}: {group.meaning}"]
        for setting in group.settings:
            lines += _setting_line(setting, values)
    lines += [
        "",
        "--info, --multirun and --config-dir are Hydra's, and so is the rest: --hydra-help",
    ]
    return "\n".join(lines)


def topic_text(topic: str, overrides: Sequence[str]) -> str:
    """Return all that is known of a group or a key. Raises ConfigError for another word."""
    groups = {group.name: group for group in all_groups()}
    settings = all_settings()
    if topic in settings:
        return _key_page(settings[topic], composed_values(overrides))
    if topic in groups:
        return _group_page(groups[topic], composed_values(overrides))
    if options := group_options(topic):  # a folder of recipes, without settings of its own
        return "\n".join([f"{topic}: choose with {topic}=option", "", *_options(topic, options)])
    same = [key for key in settings if key.rpartition(".")[2] == topic]
    near = same or get_close_matches(topic, [*settings, *groups], n=1, cutoff=0.5)
    hint = f" Did you mean --help {near[0]}?" if near else " --help lists them."
    raise ConfigError(f"'{topic}' is neither a setting nor a group.{hint}")


def composed_values(overrides: Sequence[str]) -> Mapping[str, Any]:
    """Map each key to its value as composed; interpolations stay as they are written."""
    register_schema()
    with hydra.initialize_config_module("sft_app.conf", version_base="1.3"):
        config = hydra.compose("config", overrides=list(overrides))
    composed: Any = OmegaConf.to_container(config, enum_to_str=True)
    return {
        key: (composed[setting.group] if setting.group else composed)[setting.name]
        for key, setting in all_settings().items()
    }


def describe_default(setting: Setting, values: Mapping[str, Any]) -> str:
    """Return the value that holds when nothing is said, as it would be typed."""
    return shown(values[setting.key])


def allowed_values(setting: Setting) -> str:
    """Return the type of a setting in words, with the range of a number."""
    allowed = NUMBER_RANGES.get(setting.key)
    return f"{setting.kind}, {allowed}" if allowed else setting.kind


def option_summary(group: str, option: str) -> str:
    """Return what the comment at the head of an option's file says, in one line."""
    words: list[str] = []
    for line in (conf_dir() / group / f"{option}.yaml").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith(("# @package", "# yaml-language-server")):
            words.append(line.lstrip("# ").strip())
    return " ".join(words)


def _groups() -> list[str]:
    names = [group.name for group in all_groups() if group_options(group.name)]
    lines = []
    for name in [*names, *_other_groups(names)]:
        lines += _columns(f"  {name}", ", ".join(group_options(name)), width=24)
    return lines


def _other_groups(known: list[str]) -> list[str]:
    folders = sorted(f.relative_to(conf_dir()) for f in conf_dir().rglob("*") if f.is_dir())
    return [str(f) for f in folders if group_options(str(f)) and str(f) not in known]


def _setting_line(setting: Setting, values: Mapping[str, Any]) -> list[str]:
    return _columns(f"  {setting.key}={shown(values[setting.key])}", setting.summary)


def _columns(key: str, meaning: str, width: int = LEFT_COLUMN) -> list[str]:
    """Wrap `meaning` in a column beside `key`, or beneath it where the key is longer."""
    in_all = max(width + 30, shutil.get_terminal_size((100, 24)).columns)
    wrapped = textwrap.wrap(meaning, in_all - width - 1) or [""]
    if len(key) >= width:
        wrapped.insert(0, "")
    first, *others = wrapped
    return [f"{key:<{width}} {first}".rstrip(), *(" " * (width + 1) + line for line in others)]


def _group_page(group: Group, values: Mapping[str, Any]) -> str:
    lines = [f"{group.name}: {group.meaning}", ""]
    if options := group_options(group.name):
        lines += [f"Choose with {group.name}=option:", "", *_options(group.name, options), ""]
    lines += ["Settings:", ""]
    for setting in group.settings:
        lines += [*_key_lines(setting, values), ""]
    return "\n".join(lines).rstrip()


def _options(group: str, options: Sequence[str]) -> list[str]:
    lines: list[str] = []
    for option in options:
        lines += _columns(f"  {option}", option_summary(group, option), width=24)
    return lines


def _key_page(setting: Setting, values: Mapping[str, Any]) -> str:
    return "\n".join(_key_lines(setting, values))


def _key_lines(setting: Setting, values: Mapping[str, Any]) -> list[str]:
    lines = [f"{setting.key}={shown(values[setting.key])}"]
    lines += textwrap.wrap(setting.meaning, 96, initial_indent="  ", subsequent_indent="  ")
    lines.append(f"  Type: {allowed_values(setting)}")
    for choice, meaning in setting.choices.items():
        if meaning:
            lines += _columns(f"    {choice}", meaning, width=20)
    return lines
