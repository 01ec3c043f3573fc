"""What is built equals the papers' closed forms, computed here in float64 and independently.

Letters: d rotated dimensions, theta base, s factor, L0 original context, i = 0 .. d/2 - 1.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import PretrainedConfig

from sft_app.config.schema.model import ModelConfig
from sft_app.config.schema.rope import FactorRounding, RopeConfig, RopeMethod
from sft_app.loader.checkpoint.pretrained_config import load_pretrained_config
from sft_app.loader.model.load_model import load_model
from sft_app.loader.rope.rope_plan import RopePlan, plan_rope
from sft_app.loader.rope.verify_rope import check_built

MakeCheckpoint = Callable[..., ModelConfig]

D, THETA, L0 = 64, 10_000.0, 2048
I = np.arange(D // 2, dtype=np.float64)  # noqa: E741
PLAIN = THETA ** (-2 * I / D)
WAVELENGTH = 2 * np.pi / PLAIN


def built(
    make_checkpoint: MakeCheckpoint, length: int, rope: RopeConfig
) -> tuple[np.ndarray, float, RopePlan]:
    """(inverse frequencies, attention factor, plan) of a Llama with one head of 64 dimensions."""
    checkpoint = make_checkpoint(
        "llama",
        hidden_size=D,
        num_attention_heads=1,
        num_key_value_heads=1,
        num_hidden_layers=1,
        max_position_embeddings=L0,
        rope_theta=THETA,
    )
    config = load_pretrained_config(checkpoint)
    plan = plan_rope(config, length, rope)
    rotary = load_model(checkpoint, config, plan).model.rotary_emb
    return rotary.inv_freq.double().numpy(), float(rotary.attention_scaling), plan


def close(a: np.ndarray, b: np.ndarray) -> None:
    np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize(
    ("rounding", "length", "factor"),
    [("ceil", 5000, 3.0), ("exact", 5000, 5000 / 2048), ("ceil", 4096, 2.0)],
)
def test_linear_is_chen_2023_equation_4(
    make_checkpoint: MakeCheckpoint, rounding: str, length: int, factor: float
) -> None:
    """f'(x, m) = f(x, m L / L'): every angle divided by s."""
    rope = RopeConfig(method=RopeMethod.linear, factor_rounding=FactorRounding(rounding))
    inverse, attention, plan = built(make_checkpoint, length, rope)
    close(inverse, PLAIN / factor)
    assert attention == 1.0
    assert plan.factor == factor
    assert plan.effective_context_length == (round(L0 * factor) if rounding == "ceil" else length)


def test_ntk_is_peng_2023_section_3_1(make_checkpoint: MakeCheckpoint) -> None:
    """theta' = theta s^(d / (d - 2)): the slowest frequency is divided by s, the fastest kept."""
    s = 4.0
    inverse, attention, plan = built(make_checkpoint, 8192, RopeConfig(method=RopeMethod.ntk))
    close(inverse, (THETA * s ** (D / (D - 2))) ** (-2 * I / D))
    close(inverse[[0, -1]], PLAIN[[0, -1]] / [1, s])
    assert attention == 1.0
    assert plan.max_position_embeddings == plan.effective_context_length == 8192


def test_abf_is_a_given_base(make_checkpoint: MakeCheckpoint) -> None:
    """Xiong et al. 2023, arXiv:2309.16039, section 4.1."""
    rope = RopeConfig(method=RopeMethod.abf, theta=500_000.0)
    inverse, _, plan = built(make_checkpoint, 8192, rope)
    close(inverse, 500_000.0 ** (-2 * I / D))
    assert plan.max_position_embeddings == plan.effective_context_length == 8192


def yarn_inverse(s: float, fast: float, slow: float, whole_dimensions: bool) -> np.ndarray:
    """Peng et al. 2023, section 3.2; the ramp over dimension indices as in their code."""
    index = lambda turns: D * np.log(L0 / (turns * 2 * np.pi)) / (2 * np.log(THETA))  # noqa: E731
    low, high = index(fast), index(slow)
    if whole_dimensions:
        low, high = np.floor(low), np.ceil(high)
    interpolated = np.clip((I - low) / (high - low), 0, 1)
    return PLAIN / s * interpolated + PLAIN * (1 - interpolated)


def test_yarn_is_ntk_by_parts_with_its_temperature(make_checkpoint: MakeCheckpoint) -> None:
    inverse, attention, plan = built(make_checkpoint, 8192, RopeConfig(method=RopeMethod.yarn))
    close(inverse, yarn_inverse(4.0, 32, 1, True))
    assert attention == pytest.approx(0.1 * np.log(4.0) + 1, rel=1e-6)
    assert plan.rope_parameters is not None
    assert plan.rope_parameters["original_max_position_embeddings"] == L0
    assert plan.max_position_embeddings == 8192


def test_yarn_with_every_field_of_its_own(make_checkpoint: MakeCheckpoint) -> None:
    rope = RopeConfig(
        method=RopeMethod.yarn, factor=8.0, beta_fast=16, beta_slow=2, truncate=False, mscale=0.7,
        mscale_all_dim=1.0,
    )  # fmt: skip
    inverse, attention, _ = built(make_checkpoint, 8192, rope)
    close(inverse, yarn_inverse(8.0, 16, 2, False))
    expected = (0.07 * np.log(8) + 1) / (0.1 * np.log(8) + 1)
    assert attention == pytest.approx(expected, rel=1e-6)
    rope = RopeConfig(method=RopeMethod.yarn, attention_factor=1.25)
    assert built(make_checkpoint, 8192, rope)[1] == 1.25


def test_llama3_is_metas_three_zones(make_checkpoint: MakeCheckpoint) -> None:
    """Kept below L0 / 4, divided above L0 / 1, blended between (by wavelength)."""
    inverse, attention, _ = built(make_checkpoint, 8192, RopeConfig(method=RopeMethod.llama3))
    smooth = (L0 / WAVELENGTH - 1) / (4 - 1)
    blended = (1 - smooth) * PLAIN / 4 + smooth * PLAIN
    expected = np.where(WAVELENGTH < L0 / 4, PLAIN, np.where(WAVELENGTH > L0, PLAIN / 4, blended))
    close(inverse, expected)
    assert attention == 1.0


def test_longrope_divides_by_its_lists(make_checkpoint: MakeCheckpoint) -> None:
    """Short list up to L0, long list beyond; attention sqrt(1 + ln s / ln L0)."""
    short = [1.0 + 0.01 * i for i in range(D // 2)]
    long = [1.0 + 0.5 * i for i in range(D // 2)]
    rope = RopeConfig(method=RopeMethod.longrope, short_factor=short, long_factor=long)
    inverse, attention, plan = built(make_checkpoint, 8192, rope)
    close(inverse, PLAIN / np.array(short))
    assert attention == pytest.approx(np.sqrt(1 + np.log(4) / np.log(L0)), rel=1e-6)
    assert plan.max_position_embeddings == 8192


def test_longrope_takes_the_long_list_beyond_the_original_context(
    make_checkpoint: MakeCheckpoint,
) -> None:
    checkpoint = make_checkpoint("phi3-longrope")
    config = load_pretrained_config(checkpoint)
    model = load_model(checkpoint, config, plan_rope(config, 256, RopeConfig()))
    rotary = model.model.rotary_emb
    plain = 10_000.0 ** (-2 * np.arange(4) / 8)
    with torch.no_grad():
        rotary(torch.zeros(1), torch.arange(64)[None])
        close(rotary.inv_freq.double().numpy(), plain / [1.0, 1.1, 1.2, 1.3])
        rotary(torch.zeros(1), torch.arange(65)[None])
        close(rotary.inv_freq.double().numpy(), plain / [1.0, 2.0, 3.0, 4.0])
    assert float(rotary.attention_scaling) == pytest.approx(np.sqrt(1 + np.log(4) / np.log(64)))


def test_dynamic_is_plain_up_to_the_original_and_ntk_beyond(
    make_checkpoint: MakeCheckpoint,
) -> None:
    """theta (s l / L0 - (s - 1))^(d / (d - 2)) for a batch of l tokens."""
    rope = RopeConfig(method=RopeMethod.dynamic, force=True)
    inverse, _, plan = built(make_checkpoint, 4096, rope)
    close(inverse, PLAIN)
    assert (plan.factor, plan.max_position_embeddings) == (2.0, L0)


@pytest.mark.parametrize("spoil", ["cast to bfloat16", "zeros"])
def test_spoiled_frequencies_are_noticed(make_checkpoint: MakeCheckpoint, spoil: str) -> None:
    checkpoint = make_checkpoint("llama")
    config: PretrainedConfig = load_pretrained_config(checkpoint)
    plan = plan_rope(config, 128, RopeConfig())
    model = load_model(checkpoint, config, plan)
    rotary = model.model.rotary_emb
    rotary.inv_freq = rotary.inv_freq.bfloat16() if spoil != "zeros" else rotary.inv_freq * 0
    with pytest.raises(RuntimeError, match="rotary_emb"):
        check_built(model, plan.rotary_dims)


def test_bfloat16_weights_keep_float32_frequencies(make_checkpoint: MakeCheckpoint) -> None:
    from sft_app.config.schema.model import Dtype

    checkpoint = make_checkpoint("llama")
    checkpoint = ModelConfig(name_or_path=checkpoint.name_or_path, dtype=Dtype.bfloat16)
    config = load_pretrained_config(checkpoint)
    model = load_model(checkpoint, config, plan_rope(config, 128, RopeConfig()))
    assert model.lm_head.weight.dtype == torch.bfloat16
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32
