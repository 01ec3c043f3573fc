"""YAML of the user's own as editors leave it: a configuration, or one sentence."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hypothesis import given
from omegaconf.errors import OmegaConfBaseException

from sft_app.config import command_line
from sft_app.config.forgotten import check_model_and_data_are_named
from sft_app.config.hydra_callback import typed_without_hydra
from sft_app.config.overrides.read_overrides import read_overrides
from sft_app.config.schema.app import load_config, register_schema, save_config
from sft_app.config.validation.check_secrets import check_hydra_secrets
from sft_app.config.validation.validate import validate
from sft_app.config.validation.without_effect import settings_without_effect
from tests.fuzz.mutations import (
    changed_json,
    changed_text,
    ends_well,
    fuzzed,
    json_changes,
    text_changes,
)

OWN = """\
# @package _global_
defaults:
  - override /rope: yarn
  - override /trainer: default

context_length: 16384
model: {name_or_path: org/model, dtype: bfloat16}
tokenizer:
  add_tokens: ["<tool>", "</tool>"]
  chat_template_kwargs: {enable_thinking: true}
rope: {factor: 4.0, beta_fast: 32}
data:
  train: [{path: org/data, weight: 2}, org/more]
  roles: {student: user}
  columns: &columns {messages: dialogue}
trainer:
  learning_rate: 2.0e-5
  max_steps: 100
  lr_scheduler_kwargs: {}
  extra: {adam_epsilon: 1.0e-9}
evaluation: {lengths: [1024, 2048]}
"""
GROUP = "method: linear\nfactor: 2\n"


def compose_as_the_command_does(folder: Path, words: list[str]) -> None:
    """Read a folder of the user's own, up to where Hydra makes the run's folder."""
    command_line.separate([f"--config-dir={folder}", *words])
    overrides = read_overrides(words, own_options=True, may_sweep=True)
    search = f"hydra.searchpath=[file://{folder}]"
    composed = compose("config", [search, *overrides], return_hydra_config=True)
    typed = typed_without_hydra(composed)
    validate(typed)
    check_hydra_secrets(composed)
    check_model_and_data_are_named(composed)
    settings_without_effect(typed)
    save_config(typed, folder / "config.written")
    load_config(folder / "config.written")


@pytest.fixture(scope="module", autouse=True)
def _hydra() -> Any:
    register_schema()
    GlobalHydra.instance().clear()
    with initialize_config_module("sft_app.conf", version_base="1.3"):
        yield


def written(tmp_path: Path, name: str, content: bytes) -> Path:
    file = tmp_path / "own" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return tmp_path / "own"


LIBRARIES = (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError)


@fuzzed(few=15)
@given(changes=text_changes())
def test_an_experiment_with_other_text_composes_or_is_refused(tmp_path: Path, changes: Any) -> None:
    own = written(tmp_path, "experiment/mine.yaml", changed_text(OWN, changes))
    with ends_well(*LIBRARIES):
        compose_as_the_command_does(own, ["experiment=mine"])


@fuzzed(few=15)
@given(changes=json_changes())
def test_an_experiment_with_other_values_composes_or_is_refused(
    tmp_path: Path, changes: Any
) -> None:
    document = changed_json(yaml.safe_load(OWN), changes)
    try:
        text = "# @package _global_\n" + yaml.safe_dump(document)
    except yaml.YAMLError:
        return
    own = written(tmp_path, "experiment/mine.yaml", text.encode("utf-8", "surrogatepass"))
    with ends_well(*LIBRARIES):
        compose_as_the_command_does(own, ["experiment=mine"])


@fuzzed(few=15)
@given(changes=text_changes())
def test_an_option_of_a_group_with_other_text_composes_or_is_refused(
    tmp_path: Path, changes: Any
) -> None:
    own = written(tmp_path, "rope/mine.yaml", changed_text(GROUP, changes))
    with ends_well(*LIBRARIES):
        compose_as_the_command_does(
            own, ["rope=mine", "model.name_or_path=org/model", "data.train=org/data"]
        )
