"""Commands that follow from a run, written so that they can be pasted as they stand."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sft_app.common.secrets import HIDDEN, is_secret_value, shown_override
from sft_app.config.overrides.read_overrides import quoted
from sft_app.records.run_files import CHECKPOINTS, CONFIG

_HYDRA_FILES = ".hydra"
_AS_IT_IS = re.compile(r"(?![\d.+-]+$)[\w/+.%*@?|:-]+")
"""Text that Hydra reads as text without quotes: no list, no several values, no number."""
_IN_DOUBLE_QUOTES = re.compile(r'["$`\\!]')
"""What a shell still reads in double quotes."""
_OF_THE_DATA = ("eval", "format", "columns", "roles")
_UNREADABLE = (
    OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, yaml.YAMLError,
)  # fmt: skip
_WORDS_OF_HYDRA = (
    "hydra.mode=", "hydra.run.dir=", "hydra.sweep.dir=",
    "hydra.job.config.override_dirname.exclude_keys=",
)  # fmt: skip


def train_further(model: Path, config: Mapping[str, Any]) -> str | None:
    """Return the command that goes on from a saved model, on the data that `config` names.

    None where the line would show a secret, or nothing says what the data are.
    """
    data = config.get("data")
    if not isinstance(data, Mapping) or not data.get("train"):
        return None
    settings = {"model.name_or_path": str(model), "data.train": data["train"]}
    settings |= {
        f"data.{k}": data[k] for k in _OF_THE_DATA if data.get(k) not in (None, {}, "auto")
    }
    if config.get("context_length"):
        settings["context_length"] = config["context_length"]
    words = [f"{key}={override_value(value)}" for key, value in settings.items()]
    if any(HIDDEN in word or is_secret_value(word) for word in words):
        return None
    return shell_line("sft-train", *words)


def go_on_with(run_dir: Path) -> str | None:
    """Return the command that goes on from a run's newest checkpoint; None where there is none."""
    if not any((run_dir / CHECKPOINTS).glob("checkpoint-*")):
        return None
    words = recorded_overrides(run_dir / _HYDRA_FILES / "hydra.yaml")
    if words is None:
        return None
    if not any(word.startswith("run.name=") for word in words):
        words.append(f"hydra.run.dir={override_value(str(run_dir))}")
    return shell_line("sft-train", *words)


def recorded_overrides(path: Path) -> list[str] | None:
    """Return the overrides that Hydra recorded in `path`, its own last.

    Before them stands the folder of configurations that was named: it may have what they choose.
    None where they cannot be read, or one of them was a secret, which nobody has written down.
    """
    try:
        hydra = yaml.safe_load(path.read_text(encoding="utf-8"))["hydra"]
        recorded, folder = hydra["overrides"], _config_dir(hydra)
        task, own = ([str(word) for word in recorded.get(part) or ()] for part in ("task", "hydra"))
    except _UNREADABLE:
        return None
    words = [*task, *(word for word in own if not word.startswith(_WORDS_OF_HYDRA))]
    shown = [shown_override(word) for word in words]
    return None if any(HIDDEN in word for word in shown) else [*folder, *shown]


def _config_dir(hydra: Mapping[str, Any]) -> list[str]:
    """Return the option --config-dir as it was given, from here; nothing where it was not."""
    sources = (hydra.get("runtime") or {}).get("config_sources") or ()
    named = [Path(str(s["path"])) for s in sources if s.get("provider") == "command-line"]
    here = Path.cwd()
    return [
        f"--config-dir={path.relative_to(here) if path.is_relative_to(here) else path}"
        for path in named
    ]


def read_config(run_dir: Path) -> dict[str, Any]:
    """Return a run's resolved configuration as it was written; empty where it cannot be read."""
    try:
        read = yaml.safe_load((run_dir / CONFIG).read_text(encoding="utf-8"))
    except _UNREADABLE:
        return {}
    return read if isinstance(read, dict) else {}


def shell_line(*words: str) -> str:
    """Return the words as a shell reads them: bare, or in quotes that a person can read.

    shlex ends and begins its quotes around each `'` of a word; double ones around it say the same.
    """
    return " ".join(
        f'"{word}"' if "'" in word and not _IN_DOUBLE_QUOTES.search(word) else shlex.quote(word)
        for word in words
    )


def override_value(value: Any) -> str:
    """Return `value` as the right side of an override."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{k}:{override_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(override_value, value)) + "]"
    text = str(value)
    return text if _AS_IT_IS.fullmatch(text) else quoted(text)
