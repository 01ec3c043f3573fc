"""A checkpoint's weights come back whole, whatever names and layouts the family is saved in."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel

from sft_app.common.errors import ConfigError
from sft_app.config.schema.adapter import AdapterConfig, AdapterMethod
from sft_app.training.saving.load_weights import load_weights
from tests.loader.published import write_published
from tests.training.random_models import build_random_model
from tests.training.training_steps import losses_of, packed_rows, prepared, trainer_of

FAMILIES = ["llama", "gpt2", "mamba2", "gpt_oss", "mixtral", "llama4_text", "deepseek_v3"]
EXPERTS_STACKED = ["mixtral", "qwen3_moe"]


def reloaded(family: str, folder: Path, **overrides: Any) -> PreTrainedModel:
    """The same model each time, as loading a checkpoint of its family leaves it."""
    build_random_model(family, **overrides).save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.config.use_cache = False
    return model


def state(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def check_round_trip(model: PreTrainedModel, folder: Path) -> None:
    expected = state(model)
    model.save_pretrained(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    load_weights(model, folder)
    found = model.state_dict()
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_weight_comes_back(tmp_path: Path, family: str, dtype: torch.dtype) -> None:
    check_round_trip(reloaded(family, tmp_path / "source").to(dtype), tmp_path / "checkpoint")


def test_those_of_towers_too(tmp_path: Path) -> None:
    source = write_published("gemma-3-4b", tmp_path / "source")
    model = AutoModelForImageTextToText.from_pretrained(source, dtype=torch.float32)
    check_round_trip(model, tmp_path / "checkpoint")


def test_tied_weights_are_saved_once(tmp_path: Path) -> None:
    model = reloaded("llama", tmp_path / "source", tie_word_embeddings=True)
    check_round_trip(model, tmp_path / "checkpoint")
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()


def test_files_in_shards_are_read(tmp_path: Path) -> None:
    model = reloaded("llama", tmp_path / "source")
    expected = state(model)
    model.save_pretrained(tmp_path / "checkpoint", max_shard_size="20KB")
    assert (tmp_path / "checkpoint/model.safetensors.index.json").is_file()
    model.lm_head.weight.data.zero_()
    load_weights(model, tmp_path / "checkpoint")
    assert torch.equal(model.lm_head.weight, expected["lm_head.weight"])


@pytest.mark.parametrize("family", ["llama", "mixtral"])
@pytest.mark.parametrize("damage", ["without", "another's", "one number"])
def test_a_checkpoint_of_other_weights_is_refused(tmp_path: Path, family: str, damage: str) -> None:
    model = reloaded(family, tmp_path / "source")
    model.save_pretrained(tmp_path / "checkpoint")
    file = tmp_path / "checkpoint/model.safetensors"
    weights = load_file(file)
    norm = weights.pop("model.norm.weight")
    if damage == "one number":  # which would fill the whole weight
        weights["model.norm.weight"] = norm[:1].clone()
    if damage == "another's":
        weights |= {"model.norm.weight": norm, "model.another.weight": norm.clone()}
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"does not hold the weights of this model \(1 are"):
        load_weights(model, tmp_path / "checkpoint")


@pytest.mark.parametrize("family", ["llama", *EXPERTS_STACKED])
@pytest.mark.parametrize("method", [AdapterMethod.none, AdapterMethod.lora])
def test_a_resumed_run_ends_as_one_that_was_not_stopped(
    tmp_path: Path, family: str, method: AdapterMethod
) -> None:
    adapter = AdapterConfig(method=method)
    steps: dict[str, Any] = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    runs = []
    for name in ("whole", "resumed"):
        model = reloaded(family, tmp_path / "source")
        rows = packed_rows(8)
        trainer = trainer_of(prepared(model, adapter), tmp_path / name, rows, **steps)
        half = tmp_path / "whole/checkpoint-2"
        trainer.train(resume_from_checkpoint=str(half) if name == "resumed" else None)
        runs.append(trainer)
    whole, resumed = runs
    assert losses_of(whole) == losses_of(resumed)
    for (name, one), other in zip(
        whole.model.named_parameters(), resumed.model.parameters(), strict=True
    ):
        assert torch.equal(one, other), name
