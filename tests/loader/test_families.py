"""Every family, below, at and above its own context: planned, built, trained, saved."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from sft_app.common.errors import ConfigError
from sft_app.config.schema.model import ModelConfig
from sft_app.config.schema.rope import RopeConfig, RopeMethod
from sft_app.loader.checkpoint.pretrained_config import load_pretrained_config
from sft_app.loader.model.load_model import load_model
from sft_app.loader.rope.legacy_keys import add_legacy_rope_keys
from sft_app.loader.rope.positions import PositionKind, detect_positions
from sft_app.loader.rope.rope_plan import RopePlan, plan_rope
from sft_app.loader.rope.verify_rope import check_built

MakeConfig = Callable[..., PretrainedConfig]
MakeCheckpoint = Callable[..., ModelConfig]

KINDS = {
    "llama": PositionKind.rotary,
    "llama3.1": PositionKind.rotary,
    "mistral-windowed": PositionKind.rotary,
    "qwen2": PositionKind.rotary,
    "qwen3": PositionKind.rotary,
    "gemma2": PositionKind.rotary,
    "gemma3": PositionKind.rotary,
    "gemma3-multimodal": PositionKind.rotary,
    "phi": PositionKind.rotary,
    "phi3-longrope": PositionKind.rotary,
    "neox": PositionKind.rotary,
    "stablelm": PositionKind.rotary,
    "mixtral": PositionKind.rotary,
    "cohere2": PositionKind.rotary,
    "falcon": PositionKind.rotary,
    "falcon-alibi": PositionKind.alibi,
    "bloom": PositionKind.alibi,
    "mpt": PositionKind.alibi,
    "opt": PositionKind.learned,
    "gpt2": PositionKind.learned,
    "gpt_neo": PositionKind.learned,
    "gptj": PositionKind.rotary_table,
    "mamba": PositionKind.none,
}


@pytest.mark.parametrize(("family", "kind"), KINDS.items())
def test_the_kind_of_positions_is_found_without_weights(
    make_config: MakeConfig, family: str, kind: PositionKind
) -> None:
    assert detect_positions(make_config(family)).kind == kind


@pytest.mark.parametrize(
    ("family", "dims"),
    [
        ("llama", {"all": 8}),
        ("qwen3", {"all": 16}),
        ("phi", {"all": 4}),
        ("neox", {"all": 4}),
        ("stablelm", {"all": 4}),
        ("gemma3", {"full_attention": 8, "sliding_attention": 8}),
    ],
)
def test_the_rotated_share_of_a_head_is_found(
    make_config: MakeConfig, family: str, dims: dict[str, int]
) -> None:
    assert detect_positions(make_config(family)).rotary_dims == dims


# family, tokens, method in force, factor, effective context, max_position_embeddings
PLANS: list[tuple[str, int, str, float | None, int | None, int | None]] = [
    ("llama", 32, "none", None, 64, 64),
    ("llama", 64, "none", None, 64, 64),
    ("llama", 65, "linear", 2.0, 128, 64),
    ("llama", 200, "linear", 4.0, 256, 64),
    ("llama3.1", 256, "llama3", 8.0, 256, 256),
    ("llama3.1", 300, "llama3", 16.0, 512, 512),
    ("vicuna-16k", 100, "linear", 4.0, 256, 64),
    ("vicuna-16k", 256, "linear", 4.0, 256, 64),
    ("vicuna-16k", 512, "linear", 8.0, 512, 64),
    ("qwen2.5-yarn", 256, "yarn", 4.0, 256, 256),
    ("qwen2.5-yarn", 512, "yarn", 8.0, 512, 512),
    ("mistral-windowed", 256, "none", None, 256, 256),
    ("qwen2", 128, "linear", 2.0, 128, 64),
    ("qwen3", 128, "linear", 2.0, 128, 64),
    ("gemma2", 128, "linear", 2.0, 128, 64),
    ("gemma3", 128, "linear", 2.0, 128, 128),
    ("gemma3-scaled", 64, "linear", 8.0, 64, 64),
    ("gemma3-scaled", 128, "linear", 16.0, 128, 128),
    ("gemma3-multimodal", 128, "linear", 16.0, 128, 128),
    ("phi", 128, "linear", 2.0, 128, 64),
    ("phi3-longrope", 256, "longrope", None, 256, 256),
    ("neox", 128, "linear", 2.0, 128, 64),
    ("stablelm", 128, "linear", 2.0, 128, 64),
    ("mixtral", 128, "linear", 2.0, 128, 64),
    ("cohere2", 256, "none", None, 256, 256),
    ("falcon", 128, "linear", 2.0, 128, 64),
    ("falcon-alibi", 256, "not applicable", None, None, None),
    ("bloom", 256, "not applicable", None, None, None),
    ("mpt", 128, "not applicable", None, None, None),
    ("mamba", 256, "not applicable", None, None, None),
    ("opt", 64, "none", None, 64, 64),
    ("gpt2", 64, "none", None, 64, 64),
    ("gptj", 64, "none", None, 64, 64),
]


@pytest.mark.parametrize("case", PLANS, ids=lambda c: f"{c[0]}-{c[1]}")
def test_a_model_is_planned_built_trained_at_full_length_and_saved(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, case: tuple[Any, ...]
) -> None:
    family, length, method, factor, effective, positions = case
    checkpoint = make_checkpoint(family)
    config = load_pretrained_config(checkpoint)
    plan = plan_rope(config, length, RopeConfig())
    assert (plan.method, plan.factor) == (method, factor)
    assert plan.effective_context_length == effective
    assert plan.max_position_embeddings == positions

    model = load_model(checkpoint, config, plan)  # compares the built frequencies with the plan
    assert _loss_at(model, length).isfinite()

    model.save_pretrained(tmp_path)
    add_legacy_rope_keys(tmp_path)
    _same_after_reload(model, plan, tmp_path, length)


def _loss_at(model: PreTrainedModel, length: int) -> torch.Tensor:
    torch.manual_seed(1)
    ids = torch.randint(3, 90, (1, length))
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    gradient = model.get_input_embeddings().weight.grad
    assert gradient is not None and gradient.isfinite().all() and gradient.abs().sum() > 0
    return loss.detach()


def _same_after_reload(
    model: PreTrainedModel, plan: RopePlan, directory: Path, length: int
) -> None:
    kernel = model.config._attn_implementation
    reloaded = AutoModelForCausalLM.from_pretrained(directory, attn_implementation=kernel).eval()
    check_built(reloaded, plan.rotary_dims)
    ids = torch.randint(3, 90, (1, length))
    with torch.no_grad():
        before = model.eval()(input_ids=ids).logits
        after = reloaded(input_ids=ids, use_cache=False).logits
    assert torch.equal(before, after)

    saved_config = load_pretrained_config(ModelConfig(name_or_path=str(directory)))
    again = plan_rope(saved_config, length, RopeConfig(force=plan.method == "dynamic"))
    assert not again.changed
    assert again.effective_context_length == plan.effective_context_length
    in_the_base = plan.method in ("ntk", "abf")  # another theta is not a scaling that one can see
    assert again.method == ("none" if in_the_base else plan.method)


LONGROPE_FAILS_BY_LAYER_TYPE = Version(transformers.__version__) < Version("5.23")
METHODS: dict[str, dict[str, Any]] = {
    "linear": {},
    "ntk": {},
    "abf": {"theta": 1e7},
    "yarn": {},
    "llama3": {},
    "longrope": {"short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 3.0, 4.0]},
    "dynamic": {"force": True},
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["llama", "neox", "gemma3"])
def test_every_method_trains_at_full_length_and_holds_through_save_and_reload(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, family: str, method: str
) -> None:
    fields = METHODS[method]
    if family == "neox" and method == "longrope":  # half of each head is rotated
        fields = {"short_factor": [1.0] * 2, "long_factor": [1.0, 4.0]}
    checkpoint = make_checkpoint(family)
    config = load_pretrained_config(checkpoint)
    rope = RopeConfig(method=RopeMethod(method), **fields)
    if family == "gemma3" and method == "longrope" and LONGROPE_FAILS_BY_LAYER_TYPE:
        with pytest.raises(ConfigError, match="longrope does not work with gemma3_text"):
            plan_rope(config, 128, rope)
        return
    plan = plan_rope(config, 128, rope)
    assert (plan.method, plan.effective_context_length) == (method, 128)
    model = load_model(checkpoint, config, plan)
    assert _loss_at(model, 128).isfinite()
    model.save_pretrained(tmp_path)
    add_legacy_rope_keys(tmp_path)
    _same_after_reload(model, plan, tmp_path, 128)


@pytest.mark.parametrize("family", ["opt", "gpt2", "gptj"])
def test_above_a_table_is_refused_before_weights_with_the_ways_out(
    make_config: MakeConfig, family: str
) -> None:
    with pytest.raises(ConfigError, match=r"context_length: 65 .* ends at 64.*context_length=64"):
        plan_rope(make_config(family), 65, RopeConfig())


def test_a_partly_rotated_head_stays_partly_rotated(make_config: MakeConfig) -> None:
    plan = plan_rope(make_config("neox"), 128, RopeConfig())
    assert plan.rope_parameters is not None
    assert plan.rope_parameters["partial_rotary_factor"] == 0.5
    assert plan.rotary_dims == {"all": 4}


@pytest.mark.parametrize("method", ["linear", "ntk", "yarn", "llama3"])
def test_gemma3_is_scaled_where_it_is_global_and_kept_where_it_is_local(
    make_config: MakeConfig, method: str
) -> None:
    plan = plan_rope(make_config("gemma3"), 128, RopeConfig(method=RopeMethod(method)))
    assert plan.rope_parameters is not None
    local = plan.rope_parameters["sliding_attention"]
    assert local["rope_type"] == "default" and local["rope_theta"] == 1e4
    globally = plan.rope_parameters["full_attention"]
    assert globally["rope_theta"] == 1e6 if method != "ntk" else globally["rope_theta"] > 1e6


def test_a_window_shorter_than_the_length_is_told_with_its_span(make_config: MakeConfig) -> None:
    everywhere = plan_rope(make_config("mistral-windowed"), 64, RopeConfig())
    assert "only the last 16 tokens" in everywhere.warnings[0] and "32" in everywhere.warnings[0]
    some = plan_rope(make_config("gemma2"), 64, RopeConfig())
    assert "1 of 2 layers see only the last 16" in some.warnings[0]
    assert not plan_rope(make_config("mistral-windowed"), 16, RopeConfig()).warnings


def test_a_rotary_model_of_any_other_method_than_its_own_is_refused_by_name(
    make_config: MakeConfig,
) -> None:
    plain_phi3 = make_config("phi3-longrope", rope_scaling=None, max_position_embeddings=64)
    with pytest.raises(ConfigError, match="phi3"):
        plan_rope(plain_phi3, 128, RopeConfig(method=RopeMethod.yarn))
    assert plan_rope(plain_phi3, 128, RopeConfig(method=RopeMethod.ntk)).method == "ntk"
