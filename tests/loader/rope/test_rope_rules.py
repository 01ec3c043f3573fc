"""The rules of extension: what is kept, what is refused, and what every message offers."""

import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, PretrainedConfig

from sft_app.common.errors import ConfigError
from sft_app.config.schema.rope import FactorRounding, RopeConfig, RopeMethod
from sft_app.loader.rope.decide_rotary import decide_rotary
from sft_app.loader.rope.methods import Extension, extended_parameters
from sft_app.loader.rope.model_context import attention_windows, read_context
from sft_app.loader.rope.rope_plan import plan_rope, planned_config

MakeConfig = Callable[..., PretrainedConfig]


def rope(method: str, **fields: object) -> RopeConfig:
    return RopeConfig(method=RopeMethod(method), **fields)  # type: ignore[arg-type]


def test_planning_does_not_change_the_configuration(make_config: MakeConfig) -> None:
    config = make_config("llama")
    before = config.to_dict()
    plan_rope(config, 1000, RopeConfig())
    assert config.to_dict() == before


def test_llama_3_1_at_262144_grows_by_its_own_method_against_its_own_original() -> None:
    """32k: untouched. 262144 = 2 * 131072, so Meta's factor 8 becomes 16, still on 8192."""
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        vocab_size=64,
        max_position_embeddings=131072,
        rope_theta=500_000.0,
        rope_scaling={
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    )
    at_32k = plan_rope(config, 32_768, RopeConfig())
    assert not at_32k.changed and at_32k.rope_parameters == config.rope_parameters
    at_262k = plan_rope(config, 262_144, RopeConfig())
    assert at_262k.rope_parameters == {**config.rope_parameters, "factor": 16.0}
    assert at_262k.max_position_embeddings == 262_144
    assert "llama3" in at_262k.reason and "16" in at_262k.reason
    assert at_262k.original_context_length == 8192


def test_a_given_factor_of_llama3_over_llama3_grows_the_context_in_proportion(
    make_config: MakeConfig,
) -> None:
    """256 tokens with factor 8, so 512 with 16; and 12 would reach 384."""
    plan = plan_rope(make_config("llama3.1"), 512, rope("llama3", factor=16.0))
    assert (plan.factor, plan.effective_context_length) == (16.0, 512)
    with pytest.raises(ConfigError, match=r"reaches 384 .*rope\.factor=16"):
        plan_rope(make_config("llama3.1"), 512, rope("llama3", factor=12.0))


def test_factors_never_compound(make_config: MakeConfig) -> None:
    """Vicuna-16k is linear 4 on 4096; at twice its 16k the factor is 8 on 4096, not 2 on 16k."""
    plan = plan_rope(make_config("vicuna-16k"), 512, RopeConfig())
    assert plan.rope_parameters == {"rope_type": "linear", "factor": 8.0, "rope_theta": 10_000.0}
    assert plan.original_context_length == 64


@pytest.mark.parametrize("method", ["linear", "ntk", "yarn", "llama3", "abf"])
def test_another_method_over_a_scaled_model_is_refused_unless_forced(
    make_config: MakeConfig, method: str
) -> None:
    config = make_config("llama3.1" if method != "llama3" else "qwen2.5-yarn")
    fields: dict[str, object] = {"theta": 1e9} if method == "abf" else {}
    with pytest.raises(ConfigError, match=r"rope\.force=true"):
        plan_rope(config, 512, rope(method, **fields))
    forced = plan_rope(config, 512, rope(method, force=True, **fields))
    assert forced.method == method
    if method in ("linear", "yarn"):
        assert forced.factor == 512 / 16  # against the original 16 tokens, not the scaled 256


def test_a_smaller_factor_than_the_models_own_is_refused(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match="linear"):
        plan_rope(make_config("vicuna-16k"), 100, rope("linear", factor=2.0))


def test_the_models_own_method_may_be_named(make_config: MakeConfig) -> None:
    plan = plan_rope(make_config("qwen2.5-yarn"), 512, rope("yarn"))
    assert (plan.method, plan.factor) == ("yarn", 8.0)


@pytest.mark.parametrize("method", ["linear", "ntk", "yarn", "llama3"])
def test_multimodal_sections_and_a_stale_type_survive_or_go_as_they_should(method: str) -> None:
    current = {
        "rope_type": "linear",
        "type": "linear",
        "factor": 2.0,
        "rope_theta": 1e6,
        "partial_rotary_factor": 0.5,
        "mrope_section": [2, 3, 3],
    }
    extension = Extension(
        current=current, factor=4.0, original=64, effective=256, dim=16, rope=RopeConfig()
    )
    new = extended_parameters(RopeMethod(method), extension)
    assert new["mrope_section"] == [2, 3, 3] and new["partial_rotary_factor"] == 0.5
    assert "type" not in new
    assert ("factor" in new) == (method != "ntk")


def test_yarn_drops_the_attention_factor_of_the_old_factor(make_config: MakeConfig) -> None:
    scaling = {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "attention_factor": 1.7,
        "beta_fast": 24.0,
    }
    plan = plan_rope(make_config("qwen2.5-yarn", rope_scaling=scaling), 512, RopeConfig())
    assert plan.rope_parameters is not None
    assert "attention_factor" not in plan.rope_parameters
    assert plan.rope_parameters["beta_fast"] == 24.0  # its makers' choice is kept


def test_longrope_beyond_its_lists_is_refused(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match="longrope divisors were searched for 256 tokens"):
        plan_rope(make_config("phi3-longrope"), 300, RopeConfig())


def test_longrope_lists_of_the_wrong_length_are_refused(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=r"rope\.short_factor: 2 numbers.*4 rotary"):
        plan_rope(make_config("llama"), 128, rope("longrope", short_factor=[1.0, 1.0]))


def test_a_long_list_of_the_wrong_length_is_refused_where_it_is_not_needed_yet(
    make_config: MakeConfig,
) -> None:
    lists = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 3, "factor": 4.0}
    scaling = {"rope_type": "longrope", "original_max_position_embeddings": 16, **lists}
    config = make_config("llama", rope_scaling=scaling)
    with pytest.raises(ConfigError, match="long_factor has 3 numbers, one for each of 4 is needed"):
        plan_rope(config, 16, RopeConfig())


def test_longrope_tells_of_its_two_sets_of_angles(make_config: MakeConfig) -> None:
    assert (
        "short divisors" in plan_rope(make_config("phi3-longrope"), 128, RopeConfig()).warnings[0]
    )
    assert not plan_rope(make_config("phi3-longrope"), 64, RopeConfig()).warnings


def test_dynamic_is_refused_for_training_unless_forced(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=r"rope\.force=true"):
        plan_rope(make_config("llama"), 128, rope("dynamic"))
    assert plan_rope(make_config("llama"), 128, rope("dynamic", force=True)).method == "dynamic"
    # A model that has it already runs as it is up to its original context, and no further.
    assert plan_rope(make_config("dynamic"), 64, RopeConfig()).method == "dynamic"
    with pytest.raises(ConfigError, match="moving target"):
        plan_rope(make_config("dynamic"), 128, RopeConfig())


def test_none_warns_that_it_extrapolates(make_config: MakeConfig) -> None:
    plan = plan_rope(make_config("llama"), 128, rope("none"))
    assert plan.method == "none" and "extrapolates" in plan.warnings[0]
    assert plan.rope_parameters == make_config("llama").rope_parameters
    assert plan.max_position_embeddings == 128


def test_what_fits_is_untouched_whatever_the_method(make_config: MakeConfig) -> None:
    for method in ("linear", "ntk", "yarn", "llama3"):
        plan = plan_rope(make_config("llama"), 64, rope(method))
        assert not plan.changed and "not needed" in plan.reason


def test_a_given_factor_is_applied_even_if_the_length_fits(make_config: MakeConfig) -> None:
    plan = plan_rope(make_config("llama"), 64, rope("linear", factor=2.0))
    assert (plan.factor, plan.effective_context_length) == (2.0, 128)


def test_abf_has_no_factor_and_never_shortens_a_model(make_config: MakeConfig) -> None:
    plan = plan_rope(make_config("llama"), 32, RopeConfig(method=RopeMethod.abf, factor=4.0))
    assert not plan.changed
    assert (plan.effective_context_length, plan.max_position_embeddings) == (64, 64)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom"])
def test_what_was_given_and_changes_nothing_is_told(make_config: MakeConfig, family: str) -> None:
    plan = plan_rope(make_config(family), 64, RopeConfig(factor=4.0), original_context_length=64)
    (factor, *original) = plan.warnings
    assert factor.startswith("rope.factor=4 is not applied: ")
    assert ("rope=linear" in factor) == (family == "llama") == (original == [])
    plan = plan_rope(make_config(family), 64, RopeConfig())
    assert not any("not applied" in warning for warning in plan.warnings)


def test_a_factor_that_is_too_small_names_the_right_one(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=r"reaches 128 .*rope\.factor=4"):
        plan_rope(make_config("llama"), 200, rope("linear", factor=2.0))
    with pytest.raises(ConfigError, match=r"rope\.factor: 0\.5"):
        plan_rope(make_config("llama"), 200, rope("linear", factor=0.5))


def test_abf_needs_a_base_above_the_models_own(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=r"rope\.theta: 5000.*rope\.theta=500000"):
        plan_rope(make_config("llama"), 128, rope("abf", theta=5000.0))


def test_extend_positions_is_for_tables(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=r"rope=linear"):
        plan_rope(make_config("llama"), 128, rope("extend_positions"))


def test_the_users_word_on_the_original_context_outranks_the_models(
    make_config: MakeConfig,
) -> None:
    plan = plan_rope(make_config("qwen2"), 64, RopeConfig(), original_context_length=32)
    assert (plan.factor, plan.max_position_embeddings) == (2.0, 32)
    assert plan.original_context_source == "model.original_context_length"


def test_a_rope_method_on_a_model_without_rope_is_told_and_run(make_config: MakeConfig) -> None:
    plan = plan_rope(make_config("bloom"), 4096, rope("yarn"))
    assert plan.method == "not applicable" and "not applicable" in plan.warnings[0]


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("bloom", {"seq_length": 64}),
        ("falcon-alibi", {"max_position_embeddings": 64}),
        ("mpt", {"max_seq_len": 64}),
    ],
)
def test_no_number_that_limits_nothing_caps_what_is_served(
    make_config: MakeConfig, family: str, changes: dict[str, int]
) -> None:
    config = make_config(family, **changes)
    for length in (256, 16):
        planned = planned_config(config, plan_rope(config, length, RopeConfig())).to_dict()
        assert {name: planned[name] for name in changes} == dict.fromkeys(changes, max(length, 64))


def test_a_longer_table_is_told_to_llama_cpp(make_config: MakeConfig) -> None:
    """Its converter reads n_ctx of GPT-2, which transformers has no use for."""
    config = make_config("gpt2", n_ctx=64)
    plan = plan_rope(config, 128, RopeConfig(method=RopeMethod.extend_positions))
    assert planned_config(config, plan).to_dict()["n_ctx"] == 128


def test_a_length_below_one_is_refused(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match="context_length: 0"):
        plan_rope(make_config("llama"), 0, RopeConfig())


@pytest.mark.parametrize("family", ["llama3.1", "phi3-longrope", "gemma3", "opt", "bloom"])
def test_a_plan_can_be_read_and_stored(make_config: MakeConfig, family: str) -> None:
    plan = plan_rope(make_config(family), 64, RopeConfig())
    assert json.loads(json.dumps(plan.as_dict()))["context_length"] == 64
    text = str(plan)
    assert "positions" in text and plan.reason in text
    assert max(len(line) for line in text.splitlines()) < 250


@settings(deadline=None, max_examples=200)
@given(
    original=st.integers(1, 10_000),
    length=st.integers(1, 1_000_000),
    rounding=st.sampled_from(FactorRounding),
)
def test_the_linear_factor_covers_the_length_and_is_the_least_that_does(
    original: int, length: int, rounding: FactorRounding
) -> None:
    text = LlamaConfig(max_position_embeddings=original)
    decision = decide_rotary(
        text, read_context(text), attention_windows(text), {"all": 128}, length,
        RopeConfig(factor_rounding=rounding),
    )  # fmt: skip
    assert decision.effective is not None and decision.effective >= length
    if length <= original:
        assert decision.factor is None and not decision.changed
    elif rounding == FactorRounding.ceil:
        assert decision.factor == -(-length // original)  # the ceiling, in whole numbers
    else:
        assert decision.factor == length / original and decision.effective == length
