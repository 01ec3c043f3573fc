"""Whose model, whose data: a command that names neither, and recipes that do it for it."""

from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from sft_app.common.errors import ConfigError
from sft_app.config.forgotten import check_model_and_data_are_named


def composed(*words: str, recipe: str | None = None, folder: Path | None = None) -> DictConfig:
    """What Hydra knows of a command, as far as it is looked at."""
    sources = [{"schema": "file", "path": str(folder)}] if folder else []
    runtime = {"choices": {"experiment": recipe, "data": "sharegpt"}, "config_sources": sources}
    return OmegaConf.create({"hydra": {"overrides": {"task": list(words)}, "runtime": runtime}})


@pytest.mark.parametrize("recipe", ["demo", "context_sweep", "leaderboard", "leaderboard_quick"])
def test_a_recipe_names_them_itself_or_by_one_that_it_builds_on(recipe: str) -> None:
    check_model_and_data_are_named(composed(recipe=recipe))


def test_a_recipe_of_ones_own_counts_with_what_it_builds_on(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    for name, defaults in {
        "mine": "[leaderboard_quick, _self_]",
        "first": "[second, _self_]",
        "second": "[{override /model: smollm2}]",
    }.items():
        (tmp_path / "experiment" / f"{name}.yaml").write_text(f"defaults: {defaults}\n")
    check_model_and_data_are_named(composed(recipe="mine", folder=tmp_path))
    with pytest.raises(ConfigError, match="no data to train on is named"):
        check_model_and_data_are_named(composed(recipe="first", folder=tmp_path))
    check_model_and_data_are_named(composed("data.train=a", recipe="first", folder=tmp_path))


def test_a_command_that_names_neither_is_refused() -> None:
    with pytest.raises(ConfigError, match="neither a model nor data is named"):
        check_model_and_data_are_named(composed("trainer.max_steps=3"))
