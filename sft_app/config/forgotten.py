"""A model without data, or data without a model: refused, not filled up with the demo's."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from sft_app.common.errors import ConfigError
from sft_app.config.conf_files import conf_dir

USAGE = """\
usage: sft-train model.name_or_path=MODEL data.train=FILE [key=value ...]

  sft-train model.name_or_path=./my-model data.train=chat.jsonl context_length=8192
  sft-train model.name_or_path=org/name data.train=org/chats adapter=lora
  sft-train --multirun context_length=4096,8192 rope=linear,yarn ...   a sweep of four jobs
  sft-train experiment=demo         the embedded model and data, about 2 minutes on 2 CPU cores

  sft-plan  with the same words     what would be done, without loading weights
  sft-train --help, --help KEY      every setting, all about one
"""

WAY_OUT = {"model": "model.name_or_path=/some/dir", "data": "data.train=/some/chat.json"}
NAMES = {"model": "model", "data": "data to train on"}


def check_model_and_data_are_named(config: DictConfig) -> None:
    """Raise ConfigError when a command names no model, or no data, and its recipe does neither.

    `config` is composed, with Hydra's part: what was asked for stands there. conf/config.yaml has
    a default for both, the demo's, which nobody means who brings one of their own.
    """
    asked = _asked_for(config)
    missing = [group for group in WAY_OUT if not _is_named(group, asked, config)]
    if len(missing) == len(WAY_OUT):
        raise ConfigError(
            "neither a model nor data is named: add "
            f"{' '.join(WAY_OUT.values())}, or experiment=demo for the embedded ones."
        )
    if missing:
        (group,) = missing
        demo = OmegaConf.select(config, f"hydra.runtime.choices.{group}")
        raise ConfigError(
            f"no {NAMES[group]} is named: add {WAY_OUT[group]} (or {group}={demo} for the demo's)."
        )


def _asked_for(config: DictConfig) -> set[str]:
    """Return the keys and groups of the command line, and of a sweep's parameters."""
    words = list(OmegaConf.select(config, "hydra.overrides.task") or [])
    parameters = OmegaConf.select(config, "hydra.sweeper.params") or {}
    keys = [str(word).lstrip("+~").partition("=")[0] for word in words]
    return {key.partition("@")[0] for key in [*keys, *map(str, parameters)]}


def _is_named(group: str, asked: set[str], config: DictConfig) -> bool:
    key = WAY_OUT[group].partition("=")[0]
    return group in asked or key in asked or _recipe_names(group, key, config)


def _recipe_names(group: str, key: str, config: DictConfig) -> bool:
    choice = OmegaConf.select(config, "hydra.runtime.choices.experiment")
    folders = [*_folders(config), conf_dir()]
    return bool(choice) and _recipe_chooses(str(choice), folders, group, key)


def _recipe_chooses(name: str, folders: Sequence[Path], group: str, key: str) -> bool:
    """Tell whether a recipe names it, or one of those that it builds on does."""
    for folder in folders:
        path = folder / "experiment" / f"{name}.yaml"
        if path.is_file():
            recipe = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
            below = [base for base in recipe.get("defaults", []) if isinstance(base, str)]
            return _chooses(recipe, group, key) or any(
                _recipe_chooses(base.rpartition("/")[2], folders, group, key)
                for base in below
                if base != "_self_"
            )
    return True  # a recipe that cannot be looked into knows what it does


def _folders(config: DictConfig) -> list[Path]:
    sources = OmegaConf.select(config, "hydra.runtime.config_sources") or []
    return [Path(source.path) for source in sources if source.schema == "file"]


def _chooses(recipe: Any, group: str, key: str) -> bool:
    setting = key.partition(".")[2]
    if isinstance(recipe.get(group), dict) and setting in recipe[group]:
        return True
    entries = [entry for entry in recipe.get("defaults", []) if isinstance(entry, dict)]
    names = [str(chosen) for entry in entries for chosen in entry]
    return group in [chosen.removeprefix("override ").strip().lstrip("/") for chosen in names]
