"""From a checkpoint directory to a model, and back to a directory."""

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from sft_app.config.model import ModelConfig
from sft_app.config.rope import RopeConfig
from sft_app.loader.model import load_model
from sft_app.loader.pretrained_config import load_pretrained_config
from sft_app.loader.rope_plan import plan_rope


@pytest.fixture
def llama(tmp_path: Path) -> ModelConfig:
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=128,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    return ModelConfig(name_or_path=str(tmp_path / "llama"))


@pytest.mark.parametrize(("length", "factor"), [(64, None), (128, None), (129, 2), (500, 4)])
def test_linear_factor_is_the_ceiling_of_the_ratio_and_nothing_when_the_length_fits(
    llama: ModelConfig, length: int, factor: float | None
) -> None:
    config = load_pretrained_config(llama)
    plan = plan_rope(config, length, RopeConfig())
    assert plan.factor == factor
    model = load_model(llama, config, plan)
    inverse = model.model.rotary_emb.inv_freq.double()
    expected = [10_000 ** (-2 * i / 8) / (factor or 1) for i in range(4)]
    assert all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(inverse, expected, strict=True))
    assert model.config.use_cache is False


def test_pickled_weights_are_refused_unless_allowed(llama: ModelConfig) -> None:
    directory = Path(llama.name_or_path)
    model = AutoModelForCausalLM.from_pretrained(directory)
    torch.save(model.state_dict(), directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()
    config = load_pretrained_config(llama)
    plan = plan_rope(config, 128, RopeConfig())
    with pytest.raises(ValueError, match=r"model\.allow_pickle=true"):
        load_model(llama, config, plan)
    llama.allow_pickle = True
    assert load_model(llama, config, plan).config.model_type == "llama"
