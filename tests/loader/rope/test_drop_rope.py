"""rope=drope: the rotation is gone, the weights are the same, and plain transformers reads it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
)

from sft_app.common.errors import ConfigError
from sft_app.config.schema.model import ModelConfig
from sft_app.config.schema.rope import RopeConfig, RopeMethod
from sft_app.loader.checkpoint.pretrained_config import load_pretrained_config
from sft_app.loader.model.load_model import load_model
from sft_app.loader.rope.base_bound import base_bound
from sft_app.loader.rope.positions import PositionKind
from sft_app.loader.rope.rope_plan import RopePlan, plan_rope
from sft_app.serving.export_gguf import export_gguf
from sft_app.serving.serving_lines import serving_lines

MakeCheckpoint = Callable[..., ModelConfig]
MakeConfig = Callable[..., object]

DROPE = RopeConfig(method=RopeMethod.drope)
IDS = torch.arange(3, 63).view(2, 30)
LLAMAS = {
    "plain": {},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "wide heads": {"head_dim": 32},
    "tied": {"tie_word_embeddings": True},
    "every head its own": {"num_key_value_heads": 4},
}


def relative(family: str, **changes: object) -> PretrainedConfig:
    """A small configuration of another family, with what Llama's has."""
    shape = {
        "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip
    config: PretrainedConfig = AutoConfig.for_model(family, **{**shape, **changes})
    return config


def dropped(checkpoint: ModelConfig, length: int) -> tuple[PreTrainedModel, RopePlan]:
    config = load_pretrained_config(checkpoint)
    plan = plan_rope(config, length, DROPE)
    return load_model(checkpoint, config, plan), plan


@torch.no_grad()
def logits_without_rotation(checkpoint: ModelConfig) -> torch.Tensor:
    """The checkpoint's own Llama, told that every token stands at position 0."""
    model = LlamaForCausalLM.from_pretrained(checkpoint.name_or_path).eval()
    same_place = torch.zeros_like(IDS)
    # With a mask: without one, equal positions are read as documents of one token.
    mask = torch.ones_like(IDS)
    logits: torch.Tensor = model(IDS, mask, position_ids=same_place, use_cache=False).logits
    return logits


@pytest.mark.parametrize("changes", LLAMAS.values(), ids=LLAMAS)
@torch.no_grad()
def test_it_computes_what_llama_does_where_nothing_is_rotated(
    make_checkpoint: MakeCheckpoint, changes: dict[str, object], tmp_path: Path
) -> None:
    checkpoint = make_checkpoint("llama", **changes)
    model, plan = dropped(checkpoint, 256)
    expected = logits_without_rotation(checkpoint)
    assert torch.allclose(model(IDS).logits, expected, rtol=0, atol=1e-6)
    assert not torch.allclose(
        LlamaForCausalLM.from_pretrained(checkpoint.name_or_path)(IDS).logits,
        expected,
        rtol=0,
        atol=2e-5,
    )
    assert (plan.method, plan.effective_context_length) == ("drope", 256)

    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(again).__module__ == "transformers.models.smollm3.modeling_smollm3"
    assert torch.equal(again(IDS).logits, model(IDS).logits)


def test_order_is_told_by_causality_alone(make_checkpoint: MakeCheckpoint) -> None:
    model, _ = dropped(make_checkpoint("llama"), 256)
    shifted = torch.arange(IDS.shape[1]) + 1000
    there = model(IDS, position_ids=shifted.expand_as(IDS), use_cache=False).logits
    assert torch.equal(there, model(IDS, use_cache=False).logits)


def test_a_scaling_goes_with_the_rotation(make_checkpoint: MakeCheckpoint) -> None:
    scaled = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
    checkpoint = make_checkpoint("llama", rope_parameters=scaled, max_position_embeddings=64)
    model, plan = dropped(checkpoint, 128)
    assert model.config.rope_parameters == {"rope_type": "default", "rope_theta": 10000.0}
    assert plan.max_position_embeddings == 256, "what the model took before"


def test_the_stated_length_is_the_longest_of_what_is_known(make_config: MakeConfig) -> None:
    llama = make_config("llama", max_position_embeddings=128)
    assert plan_rope(llama, 64, DROPE).max_position_embeddings == 128
    assert plan_rope(llama, 512, DROPE).max_position_embeddings == 512
    four = RopeConfig(method=RopeMethod.drope, factor=4)
    assert plan_rope(llama, 128, four).max_position_embeddings == 512
    with pytest.raises(ConfigError, match=r"rope\.factor: 2 states 256 tokens"):
        plan_rope(llama, 512, RopeConfig(method=RopeMethod.drope, factor=2))


@pytest.mark.parametrize(
    ("family", "changes", "why"),
    [
        ("qwen2", {}, "bias"),
        ("qwen3", {}, "norm"),
        ("gemma", {}, "its logits differ"),
        ("granite", {"residual_multiplier": 0.5}, "its logits differ"),
        ("mixtral", {}, "mlp"),
        ("mistral", {"sliding_window": 32}, "see only 32 tokens"),
    ],
)
def test_other_architectures_are_refused(family: str, changes: dict[str, object], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        plan_rope(relative(family, **changes), 4096, DROPE)


def test_a_table_of_positions_has_no_rotation_to_drop(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match="drope"):
        plan_rope(make_config("gpt2"), 4096, DROPE)


def test_llamas_relatives_are_recognised_by_what_they_compute() -> None:
    for family, changes in (("mistral", {"sliding_window": None}), ("smollm3", {})):
        assert plan_rope(relative(family, **changes), 256, DROPE).method == "drope"


def test_what_was_saved_is_tuned_again_without_positions(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    model, _ = dropped(make_checkpoint("llama"), 256)
    model.save_pretrained(tmp_path)
    config = load_pretrained_config(ModelConfig(name_or_path=str(tmp_path)))
    for method in (RopeMethod.auto, RopeMethod.drope):
        plan = plan_rope(config, 1024, RopeConfig(method=method))
        assert plan.positions is PositionKind.none and not plan.warnings
        assert plan.max_position_embeddings == 1024, "engines cap what they serve at it"
    (warning,) = plan_rope(config, 1024, RopeConfig(method=RopeMethod.yarn)).warnings
    assert "rope.method=yarn is not applicable" in warning


def test_llama_cpp_would_rotate_it(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    model, plan = dropped(make_checkpoint("llama"), 256)
    assert any("no GGUF file" in warning for warning in plan.warnings)
    model.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"llama\.cpp rotates three of four layers"):
        export_gguf(tmp_path, tmp_path / "model.gguf")
    assert "llama.cpp" not in [line.engine for line in serving_lines(tmp_path)]
    config = json.loads((tmp_path / "config.json").read_text())
    config["no_rope_layers"] = [1, 1, 1, 0] * 2
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "llama.cpp" in [line.engine for line in serving_lines(tmp_path)]


# The bases of Xu et al. 2024, table 2, that a fit through them is near.
BOUNDS = {4096: 2.7e4, 8192: 8.4e4, 16384: 3.1e5, 32768: 6.4e5, 65536: 2.1e6, 131072: 7.8e6}


@pytest.mark.parametrize("length", BOUNDS)
def test_abf_without_a_base_takes_the_bound(make_config: MakeConfig, length: int) -> None:
    assert BOUNDS[length] / 1.6 < base_bound(length) < BOUNDS[length] * 1.6
    llama = make_config("llama", max_position_embeddings=2048)
    plan = plan_rope(llama, length, RopeConfig(method=RopeMethod.abf))
    assert plan.rope_parameters is not None
    assert plan.rope_parameters["rope_theta"] == pytest.approx(0.0424 * length**1.628, abs=1)
    assert "arXiv:2405.14591" in plan.reason and not plan.warnings


def test_abf_never_lowers_a_base_and_says_what_stays(make_config: MakeConfig) -> None:
    llama = make_config("llama", max_position_embeddings=128, rope_theta=500_000.0)
    plan = plan_rope(llama, 8192, RopeConfig(method=RopeMethod.abf))
    assert plan.rope_parameters is not None
    assert plan.rope_parameters["rope_theta"] == 500_000.0
    assert plan.max_position_embeddings == 8192
    (warning,) = plan.warnings
    assert "abf leaves its rotation as it is" in warning


def test_a_base_below_the_bound_is_warned_of(make_config: MakeConfig) -> None:
    llama = make_config("llama", max_position_embeddings=2048)
    (warning,) = plan_rope(llama, 32768, RopeConfig(method=RopeMethod.abf, theta=2e4)).warnings
    assert "rope.theta=20000 is below 951,740" in warning
    assert not plan_rope(llama, 32768, RopeConfig(method=RopeMethod.abf, theta=1e6)).warnings
