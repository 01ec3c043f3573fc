"""Plans from published position fields: the truths of each family, and what readers make of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from sft_app.common.errors import ConfigError
from sft_app.config.schema.rope import RopeConfig, RopeMethod
from sft_app.loader.rope.legacy_keys import NO_WORDS, add_legacy_rope_keys
from sft_app.loader.rope.model_context import read_context, rope_parameter_sets
from sft_app.loader.rope.rope_plan import RopePlan, plan_rope, planned_config
from tests.loader.published import CONFIGS

MakeConfig = Callable[..., PretrainedConfig]


@pytest.fixture
def config_of(tmp_path: Path) -> Callable[..., PretrainedConfig]:
    def make(family: str, **changes: Any) -> PretrainedConfig:
        (tmp_path / "config.json").write_text(json.dumps(CONFIGS[family] | changes))
        return AutoConfig.from_pretrained(tmp_path)

    return make


@pytest.mark.parametrize(
    ("family", "effective"),
    [
        ("llama-3.1", 131_072),
        ("mistral-nemo", 131_072),
        ("qwen3", 40_960),
        ("phi-3-128k", 131_072),
        ("phi-4-mini", 131_072),
        ("command-r", 131_072),
        ("gemma-3-4b", 131_072),
        ("gemma-3-1b", 32_768),
        ("olmo-3", 65_536),
        ("gpt-oss", 131_072),
        ("deepseek-v3", 163_840),
        ("smollm3", 65_536),
        ("hunyuan", 262_144),
    ],
)
def test_a_model_at_its_own_length_is_left_alone(
    config_of: MakeConfig, family: str, effective: int
) -> None:
    plan = plan_rope(config_of(family), effective, RopeConfig())
    assert not plan.changed
    assert plan.effective_context_length == effective


@pytest.mark.parametrize("family", ["phi-3-128k", "phi-4-mini"])
def test_a_window_wider_than_the_context_bounds_nothing(config_of: MakeConfig, family: str) -> None:
    """A window of 262,144 over 131,072: at twice its context the model would be trained blindly."""
    with pytest.raises(ConfigError, match="131072"):
        plan_rope(config_of(family), 262_144, RopeConfig())


def test_command_r_is_as_long_as_it_says_elsewhere(config_of: MakeConfig) -> None:
    plan = plan_rope(config_of("command-r"), 32_768, RopeConfig())
    assert (plan.method, plan.changed) == ("none", False)
    assert plan.max_position_embeddings == 131_072, "8192 would cap serving"
    beyond = plan_rope(config_of("command-r"), 200_000, RopeConfig())
    assert (beyond.method, beyond.factor, beyond.original_context_length) == (
        "linear",
        2.0,
        131_072,
    )


@pytest.mark.parametrize(
    ("family", "stated", "base"), [("deepseek-coder", 16_384, 4096), ("llama-2-32k", 32_768, 4096)]
)
def test_a_factor_that_is_in_the_stated_length_already_is_suspected_and_can_be_told(
    config_of: MakeConfig, family: str, stated: int, base: int
) -> None:
    config = config_of(family)
    suspected = plan_rope(config, 4096, RopeConfig(), tokenizer_length=stated)
    assert f"set model.original_context_length={base}" in suspected.warnings[0]
    told = plan_rope(
        config, stated, RopeConfig(), original_context_length=base, tokenizer_length=stated
    )
    assert (told.effective_context_length, told.changed) == (stated, False)
    assert told.max_position_embeddings == base, "engines multiply it by the factor"
    assert not any("original_context_length" in warning for warning in told.warnings)
    longer = plan_rope(config, 2 * stated, RopeConfig(), original_context_length=base)
    assert longer.factor == 2 * stated / base


def test_a_tokenizer_that_agrees_raises_no_suspicion(make_config: MakeConfig) -> None:
    """Vicuna-16k: 4 times 4,096, and its tokenizer says so."""
    plan = plan_rope(make_config("vicuna-16k"), 100, RopeConfig(), tokenizer_length=256)
    assert not any("original_context_length" in warning for warning in plan.warnings)


def test_hunyuan_turns_by_its_alpha(config_of: MakeConfig) -> None:
    """theta * alpha^(d / (d - 2)), and what transformers builds, are the same numbers."""
    config = config_of("hunyuan")
    plan = plan_rope(config, 4096, RopeConfig())
    assert plan.method == "dynamic"
    built = AutoModelForCausalLM.from_config(config).model.rotary_emb.inv_freq
    base = 10_000.0 * 1000.0 ** (16 / 14)
    expected = torch.tensor([base ** (-2 * i / 16) for i in range(8)])
    torch.testing.assert_close(built, expected)


@pytest.mark.parametrize("method", ["auto", "linear", "ntk", "yarn", "abf", "llama3"])
def test_hunyuan_is_extended_from_the_base_that_it_was_trained_with(
    config_of: MakeConfig, method: str
) -> None:
    config = config_of("hunyuan", max_position_embeddings=64)
    plan = plan_rope(config, 256, RopeConfig(method=RopeMethod[method]))
    parameters = plan.rope_parameters
    assert parameters is not None and "alpha" not in parameters
    base = 10_000.0 * 1000.0 ** (16 / 14)
    built = AutoModelForCausalLM.from_config(planned_config(config, plan)).model.rotary_emb.inv_freq
    fastest = {"auto": 0.25, "linear": 0.25}.get(method, 1.0)
    assert built[0] == pytest.approx(fastest), "the pair that turns fastest"
    slowest = (base * (4 ** (16 / 14) if method == "ntk" else 1.0)) ** (-14 / 16)
    divided = 1.0 if method in ("ntk", "abf") else 4.0
    assert built[-1] == pytest.approx(slowest / divided, rel=1e-5)


def test_a_rope_that_is_not_what_its_parameters_mean_is_refused_at_any_length(
    config_of: MakeConfig,
) -> None:
    """HunYuan's alpha on a family that does not know it: read as plain by us, and by nobody."""
    rope = {**CONFIGS["hunyuan"]["rope_scaling"], "factor": 4.0}
    config = config_of("deepseek-coder", rope_scaling=rope)
    with pytest.raises(ConfigError, match="is not what its rope_parameters"):
        plan_rope(config, 64, RopeConfig())


def test_the_card_s_values_are_named_where_the_configuration_is_exceeded(
    config_of: MakeConfig,
) -> None:
    config = config_of("qwen3")
    assert not any("YaRN" in w for w in plan_rope(config, 40_960, RopeConfig()).warnings)
    plan = plan_rope(config, 131_072, RopeConfig())
    assert "factor 4 on 32,768 for up to 131,072" in "".join(plan.warnings)
    yarn = RopeConfig(method=RopeMethod.yarn)
    as_published = plan_rope(config, 131_072, yarn, original_context_length=32_768)
    assert (as_published.factor, as_published.effective_context_length) == (4.0, 131_072)


def warned(plan: RopePlan, engine: str) -> bool:
    return any(engine in warning for warning in plan.warnings)


def test_engines_that_read_otherwise_are_named(
    config_of: MakeConfig, make_config: MakeConfig
) -> None:
    linear = plan_rope(config_of("mistral-nemo"), 262_144, RopeConfig())
    assert warned(linear, "sft-export gguf states 262,144")
    forced = RopeConfig(method=RopeMethod.dynamic, force=True)
    assert warned(plan_rope(make_config("llama"), 128, forced), "--max-model-len 64")
    yarn = RopeConfig(method=RopeMethod.yarn)
    plain = plan_rope(make_config("llama"), 128, yarn)
    assert not warned(plain, "vLLM") and not warned(plain, "sft-export")


def test_gemma_4_beyond_its_length_is_not_what_vllm_serves() -> None:
    config = AutoConfig.for_model(
        "gemma4_text",
        vocab_size=64,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=6,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
    )
    plan = plan_rope(config, 512, RopeConfig())
    assert plan.factor == 2.0 and warned(plan, "vLLM's class for this family takes no factor")
    assert not warned(plan_rope(config, 256, RopeConfig()), "vLLM")


def test_what_transformers_before_5_cannot_be_told_is_a_warning_of_the_plan(
    config_of: MakeConfig, tmp_path: Path
) -> None:
    """And the same is found when the file is written, which is left readable."""
    config = AutoConfig.for_model("gemma4_text", num_hidden_layers=6, max_position_embeddings=256)
    assert warned(plan_rope(config, 512, RopeConfig()), NO_WORDS)
    saved = tmp_path / "saved"
    config.save_pretrained(saved)
    assert not add_legacy_rope_keys(saved)
    assert rope_parameter_sets(AutoConfig.from_pretrained(saved)) == rope_parameter_sets(config)
    for family in ("llama-3.1", "olmo-3", "gemma-3-4b", "qwen3-moe"):
        length = 2 * (read_context(config_of(family).get_text_config()).effective or 0)
        assert not warned(plan_rope(config_of(family), length, RopeConfig()), NO_WORDS), family


SMALL = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "pad_token_id": 0,
}


def saved_config(tmp_path: Path, family: str, method: RopeMethod, **more: Any) -> dict[str, Any]:
    """config.json of a model that was extended and saved; whether v4 reads it, under `told`."""
    config = AutoConfig.for_model(family, **(SMALL | more))
    planned = planned_config(config, plan_rope(config, 16_384, RopeConfig(method=method)))
    planned.save_pretrained(tmp_path)
    is_read = add_legacy_rope_keys(tmp_path)
    written: dict[str, Any] = json.loads((tmp_path / "config.json").read_text())
    return written | {"told": not is_read}


@pytest.mark.parametrize("family", ["olmo", "olmo2"])
def test_olmo_in_v4_takes_two_fields_and_two_methods(tmp_path: Path, family: str) -> None:
    """Its check there refuses the whole configuration over a third field, or another method."""
    linear = saved_config(tmp_path, family, RopeMethod.linear)
    assert linear["rope_scaling"] == {"type": "linear", "factor": 4.0} and not linear["told"]
    assert saved_config(tmp_path, family, RopeMethod.yarn)["told"]


@pytest.mark.parametrize(
    ("family", "method", "is_told", "more"),
    [
        ("llama", RopeMethod.yarn, False, {}),
        ("nemotron", RopeMethod.linear, True, {"head_dim": 16}),  # reads no rope_scaling
        ("nemotron", RopeMethod.ntk, False, {"head_dim": 16}),
        ("llama4_text", RopeMethod.linear, True, {"num_local_experts": 2}),  # takes it for llama3
        ("llama4_text", RopeMethod.llama3, False, {"num_local_experts": 2}),
        ("olmo3", RopeMethod.ntk, True, {"sliding_window": 512}),  # one base for all layers
        ("olmo3", RopeMethod.yarn, False, {"sliding_window": 512}),
    ],
)
def test_a_rope_that_v4_reads_as_another_one_is_told(
    tmp_path: Path, family: str, method: RopeMethod, is_told: bool, more: dict[str, Any]
) -> None:
    assert saved_config(tmp_path, family, method, **more)["told"] is is_told


@pytest.mark.parametrize("method", [RopeMethod.linear, RopeMethod.yarn])
def test_sections_of_a_model_with_towers_stay_beside_the_method(
    tmp_path: Path, method: RopeMethod
) -> None:
    """Without them v4 cannot turn images' axes, and left the scaling out altogether."""
    rope = {"type": "mrope", "mrope_section": [2, 3, 3]}
    text = {"model_type": "qwen2_5_vl_text", **SMALL, "rope_scaling": rope}
    tower = {"depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16}
    config = AutoConfig.for_model("qwen2_5_vl", text_config=text, vision_config=tower)
    planned = planned_config(config, plan_rope(config, 16_384, RopeConfig(method=method)))
    planned.save_pretrained(tmp_path)
    assert add_legacy_rope_keys(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    written = saved["text_config"]["rope_scaling"]
    assert (written["rope_type"], written["factor"]) == (method.value, 4.0)
    assert written["mrope_section"] == [2, 3, 3]
