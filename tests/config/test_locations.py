"""What can be the name of a model, or of a dataset, of the hub; and what can only be a path."""

import re
from pathlib import Path

import pytest

from sft_app.common.errors import ConfigError
from sft_app.config.locations import (
    HubDataset,
    check_data_source,
    check_file,
    check_model_source,
    hub_dataset,
)
from sft_app.config.schema.model import ModelConfig
from sft_app.data.read.sources import resolve_sources
from sft_app.loader.checkpoint.locate import find_checkpoint


@pytest.mark.parametrize(
    ("reference", "repository", "config", "split"),
    [
        ("org/name", "org/name", None, "train"),
        ("org/name:train_sft", "org/name", None, "train_sft"),
        ("org/name:train[:10%]", "org/name", None, "train[:10%]"),
        ("o-r.g/na_me.2/default:test", "o-r.g/na_me.2", "default", "test"),
    ],
)
def test_a_dataset_of_the_hub_may_name_its_split(
    reference: str, repository: str, config: str | None, split: str
) -> None:
    assert hub_dataset(reference) == HubDataset(repository, config, split)
    check_data_source("data.train", reference, (".json",))
    assert resolve_sources(reference, "data.train")[0].files == ()


@pytest.mark.parametrize(
    "reference",
    [
        "name",
        "/org/name",
        "./org/name",
        "../a/b",
        "a/b/c/d",
        "org/name:",
        "a b/c",
        "~/no/x",
        "a//b",
    ],
)
def test_what_is_no_dataset_of_the_hub_is_a_path(reference: str) -> None:
    assert hub_dataset(reference) is None
    with pytest.raises(ConfigError, match=r"data\.train"):
        check_data_source("data.train", reference, (".json",))
    with pytest.raises(ConfigError, match=r"data\.train"):
        resolve_sources(reference, "data.train")


def test_a_file_ending_makes_it_a_missing_file() -> None:
    with pytest.raises(ConfigError, match="no such file"):
        check_data_source("data.train", "org/chat.json", (".json",))


@pytest.mark.parametrize("reference", ["org/name/more", "./model", "org/name:main", "a b"])
def test_what_is_no_model_of_the_hub_is_a_path(reference: str) -> None:
    with pytest.raises(ConfigError, match=r"model\.name_or_path"):
        check_model_source("model.name_or_path", reference)
    with pytest.raises(ConfigError, match=r"model\.name_or_path"):
        find_checkpoint(ModelConfig(name_or_path=reference))


def test_a_model_of_the_hub_passes() -> None:
    check_model_source("model.name_or_path", "org/name")
    assert not find_checkpoint(ModelConfig(name_or_path="org/name")).is_local


def test_a_template_is_a_file() -> None:
    with pytest.raises(ConfigError, match="no such file"):
        check_file("tokenizer.chat_template", "org/name")


def test_a_folder_of_nearly_that_name_is_suggested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my-model").mkdir()
    monkeypatch.chdir(tmp_path)
    for reference in ("my-modell", "./my_model"):
        with pytest.raises(ConfigError, match=r"model\.name_or_path=my-model"):
            check_model_source("model.name_or_path", reference)
    check_model_source("model.name_or_path", "my-model")
    check_model_source("model.name_or_path", "gpt2")


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    """With a way out that can be pasted, where it is a checkpoint of a run."""
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    key = "model.name_or_path"
    with pytest.raises(ConfigError, match=r"a LoRA adapter of org/base.* merge it"):
        check_model_source(key, str(tmp_path))
    (tmp_path / "trainer_state.json").touch()
    line = f"{key}=org/base adapter=lora trainer.resume_from_checkpoint={tmp_path}"
    with pytest.raises(ConfigError, match=re.escape(line)):
        check_model_source(key, str(tmp_path))
    (tmp_path / "model.safetensors").touch()
    check_model_source(key, str(tmp_path))


def test_a_run_is_no_model_and_has_one(tmp_path: Path) -> None:
    run = tmp_path / "my run"
    (run / "model").mkdir(parents=True)
    (run / "model" / "config.json").write_text("{}")
    with pytest.raises(ConfigError) as refusal:
        check_model_source("model.name_or_path", str(run))
    assert f"'model.name_or_path={run}/model'" in str(refusal.value)
    check_model_source("model.name_or_path", str(run / "model"))
    (run / "config.json").write_text("{}")
    check_model_source("model.name_or_path", str(run))


def test_an_adapter_of_a_run_has_a_merged_model_beside_it(tmp_path: Path) -> None:
    """Even where it keeps the model's own config.json."""
    run = tmp_path / "my run"
    for name in ("adapter/adapter_config.json", "adapter/config.json", "model/model.safetensors"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("{}")
    with pytest.raises(ConfigError) as refusal:
        check_model_source("model.name_or_path", str(run / "adapter"))
    assert f"'model.name_or_path={run}/model' has it merged in" in str(refusal.value)


def test_the_small_models_are_not_there_before_they_are_made() -> None:
    with pytest.raises(ConfigError, match=r"python -m sft_app\.pretrain outputs/tiny_llama --rec"):
        check_model_source("model.name_or_path", "./outputs/tiny_llama")
    with pytest.raises(ConfigError, match=r"pretrain outputs/needle_llama --recipe needle_"):
        check_data_source("data.train", "outputs/needle_llama/train.json", (".json",))
