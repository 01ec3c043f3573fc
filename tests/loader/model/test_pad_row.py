"""What is loaded is what the files hold, the embedding of the pad token included."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from sft_app.config.schema.model import Dtype, ModelConfig
from sft_app.config.schema.rope import RopeConfig
from sft_app.loader.checkpoint.pretrained_config import load_pretrained_config
from sft_app.loader.model.load_model import load_model
from sft_app.loader.rope.rope_plan import plan_rope
from tests.training.packing_census import tiny_model

EMBEDDING = "model.embed_tokens.weight"


def loaded(directory: Path) -> PreTrainedModel:
    model_config = ModelConfig(name_or_path=str(directory), dtype=Dtype.float32)
    config = load_pretrained_config(model_config)
    return load_model(model_config, config, plan_rope(config, 64, RopeConfig()))


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[str], Path]:
    """saved("youtu"): a folder with a tiny model whose pad token, 0, has an embedding."""

    def save(family: str) -> Path:
        if family not in CONFIG_MAPPING:
            pytest.skip(f"this transformers knows no {family}")
        model = tiny_model(family)
        assert model is not None and model.get_input_embeddings().padding_idx == 0
        model.save_pretrained(tmp_path)
        assert load_file(tmp_path / "model.safetensors")[EMBEDDING][0].all()
        return tmp_path

    return save


@pytest.mark.parametrize("family", ["youtu", "llama", "phimoe"])
def test_a_pad_token_keeps_its_row(saved: Callable[[str], Path], family: str) -> None:
    directory = saved(family)
    row = load_file(directory / "model.safetensors")[EMBEDDING]
    assert torch.equal(loaded(directory).get_input_embeddings().weight, row)


@pytest.mark.parametrize("named", [EMBEDDING, EMBEDDING.removeprefix("model.")])
def test_it_is_found_by_the_names_that_transformers_reads(
    saved: Callable[[str], Path], caplog: pytest.LogCaptureFixture, named: str
) -> None:
    directory = saved("youtu")
    weights = load_file(directory / "model.safetensors")
    row = weights[EMBEDDING].clone()
    weights = {n.replace(EMBEDDING, named): w for n, w in weights.items()}
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    with caplog.at_level("INFO"):
        assert torch.equal(loaded(directory).get_input_embeddings().weight, row)
    assert "the row of token 0 is the checkpoint's" in caplog.text


def test_a_row_of_zeros_stays_one(saved: Callable[[str], Path], caplog) -> None:
    directory = saved("youtu")
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.no_grad():
        model.get_input_embeddings().weight[0] = 0.0
    model.save_pretrained(directory)
    with caplog.at_level("INFO"):
        assert not loaded(directory).get_input_embeddings().weight[0].any()
    assert "the row of token" not in caplog.text
