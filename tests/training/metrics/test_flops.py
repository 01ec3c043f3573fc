"""FLOPs follow the published formula, and what PyTorch counts while a model runs."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from sft_app.training.metrics.flops import AttendingLayer, ModelShape, flops_of_batch, shape_of
from sft_app.training.metrics.throughput import datasheet_rate, measure_matmul_rate, utilisation

SHAPE = ModelShape(body_factor=6_000, head_factor=60, attention=(AttendingLayer(64),) * 2)


def test_packed_documents_cost_the_sum_of_documents_not_the_square_of_the_row():
    alone = flops_of_batch(SHAPE, [300], 100)
    assert flops_of_batch(SHAPE, [300] * 4, 400) == 4 * alone
    assert flops_of_batch(SHAPE, [1200], 400) > 4 * alone


def test_the_formula_of_one_document():
    assert flops_of_batch(SHAPE, [10], 3) == 6_000 * 10 + 60 * 3 + 6 * 2 * 64 * 10**2


def test_a_window_bounds_attention():
    windowed = ModelShape(0, 0, (AttendingLayer(1, window=4),))
    assert flops_of_batch(windowed, [3], 0) == 6 * 9
    assert flops_of_batch(windowed, [100], 0) == 6 * (2 * 100 * 4 - 16)


def test_a_window_that_does_not_slide_cuts_a_document_into_chunks():
    chunked = ModelShape(0, 0, (AttendingLayer(1, window=4, is_chunked=True),))
    assert flops_of_batch(chunked, [3, 8, 11], 0) == 6 * (9 + (16 + 16) + (16 + 16 + 9))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma"])
def test_matrix_products_agree_with_pytorchs_own_counter(random_model, family):
    model = random_model(family, attention="sdpa")
    tokens = torch.randint(3, 97, (1, 16))
    with FlopCounterMode(display=False) as counter:
        model(tokens, labels=tokens).loss.backward()
    by_operation = counter.get_flop_counts()["Global"]
    # bmm: the angles of the positions, which transformers before 5.23 computes as a product.
    products = sum(n for op, n in by_operation.items() if "mm" in str(op) and "bmm" not in str(op))

    shape = shape_of(model)
    assert shape.body_factor * 16 + shape.head_factor * 16 == products


def test_frozen_matrices_need_no_gradient_of_their_own(random_model):
    model = random_model("llama")
    trained = shape_of(model).body_factor
    model.requires_grad_(False)
    assert shape_of(model).body_factor * 6 == trained * 4


def test_of_a_mixture_only_the_chosen_experts_count(random_model):
    two = shape_of(random_model("mixtral", num_experts_per_tok=2)).body_factor
    one = shape_of(random_model("mixtral", num_experts_per_tok=1)).body_factor
    three_matrices_of_two_layers = 2 * 3 * 32 * 48
    assert two - one == 6 * three_matrices_of_two_layers


def test_hunyuan_names_the_experts_of_each_layer(random_model):
    """A list, in the configuration of Hunyuan-A13B."""
    sizes = {"num_experts": 4, "head_dim": 8, "moe_intermediate_size": [48, 48]}
    two, one = (
        shape_of(random_model("hunyuan_v1_moe", moe_topk=[count] * 2, **sizes)).body_factor
        for count in (2, 1)
    )
    assert two - one == 6 * 2 * 3 * 32 * 48


GEMMA4 = {
    "head_dim": 8, "global_head_dim": 16, "layer_types": ["sliding_attention", "full_attention"],
    "sliding_window": 64, "hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0,
    "vocab_size_per_layer_input": 97, "enable_moe_block": True, "num_experts": 4,
    "top_k_experts": 2, "moe_intermediate_size": 16,
}  # fmt: skip
LATENT = {"head_dim": None, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
          "qk_nope_head_dim": 24, "v_head_dim": 16, "num_key_value_heads": 4}  # fmt: skip


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {}),
        ("mixtral", {}),
        ("gpt_oss", {}),
        ("aria_text", {"moe_num_experts": 4, "moe_topk": 2}),
        ("gemma4_text", GEMMA4),
        ("deepseek_v3", {"qk_nope_head_dim": 24}),
        ("minicpm3", LATENT),
        ("youtu", LATENT),
    ],
)
def test_all_operations_agree_with_pytorchs_own_counter(random_model, family, settings):
    """At three lengths: what grows with the length, and what with its square.

    Eager attention computes whole squares, and experts of the tokens that chose them; the angles of
    positions, which are a product as well, take too little to matter.
    """
    model = random_model(family, attention="eager", **settings)
    model.config._experts_implementation = "eager"
    by_length = []
    for length in (16, 32, 48):
        tokens = torch.randint(3, 97, (1, length))
        with FlopCounterMode(display=False) as counter:
            model(tokens).logits.sum().backward()
        by_length.append(counter.get_total_flops())
    first, second, third = by_length
    quadratic = (third - 2 * second + first) / (2 * 16**2)
    linear = (second - first) / 16 - quadratic * 48

    shape = shape_of(model)
    assert 2 * 6 * sum(layer.size for layer in shape.attention) == pytest.approx(quadratic)
    assert shape.body_factor + shape.head_factor == pytest.approx(linear, rel=2e-3)


def test_towers_that_text_never_goes_through_count_nothing(random_model):
    towers = {"model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 48,
              "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 28, "patch_size": 14,
              "vision_use_head": False}  # fmt: skip
    text = random_model("gemma3_text")
    config = Gemma3Config(text_config=text.config.to_dict(), vision_config=towers)
    assert shape_of(Gemma3ForConditionalGeneration(config)) == shape_of(text)


def windows_of(model):
    return tuple(layer.window for layer in shape_of(model).attention)


def test_windows_are_read_layer_by_layer(random_model):
    assert windows_of(random_model("gemma3_text")) == (6, None)
    assert windows_of(random_model("mistral")) == (6, 6)
    assert windows_of(random_model("llama")) == (None, None)
    chunked = shape_of(random_model("llama4_text")).attention
    assert {(layer.window, layer.is_chunked) for layer in chunked} == {(8, True)}


@pytest.mark.parametrize("family", ["mamba", "mamba2", "falcon_mamba", "rwkv", "xlstm"])
def test_a_family_without_attention_costs_what_its_matrices_do(small_family, family):
    shape = shape_of(small_family(family))
    once, twice = (flops_of_batch(shape, [length], length) for length in (100, 200))
    assert twice == 2 * once > 0


@pytest.mark.parametrize("family", ["lfm2", "qwen3_next", "jamba", "nemotron_h"])
def test_of_a_hybrid_the_layers_that_attend_grow_with_the_square(small_family, family):
    """The tiny ones have one such layer, of four heads of eight."""
    (layer,) = shape_of(small_family(family)).attention
    assert layer.size == 32


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA L40S", 362.05),
        ("NVIDIA L4", 121.0),
        ("NVIDIA GH200 480GB", 989.4),
        ("NVIDIA H200", 989.4),
        ("NVIDIA H200 NVL", 835.5),
        ("NVIDIA B200", 2250.0),
        ("NVIDIA GB200", 2500.0),
        ("NVIDIA B300 SXM6 AC", 2250.0),
        ("NVIDIA GB300", 2500.0),
        ("NVIDIA A10G", 70.0),
        ("NVIDIA A10", 125.0),
        ("NVIDIA RTX A6000", 154.8),
        ("NVIDIA RTX 6000 Ada Generation", 364.2),
        ("NVIDIA GeForce RTX 5090", 209.5),
    ],
)
def test_the_datasheet_is_found_by_name(name, tflops):
    assert datasheet_rate(name) == tflops * 1e12


def test_unknown_hardware_has_no_datasheet_figure():
    assert datasheet_rate("NVIDIA RTX A4000") is None, "it is no A40"
    rate = datasheet_rate("cpu")
    assert rate is None
    share = utilisation(1e9, 2.0, datasheet_rate=rate, measured_rate=1e9)
    assert share.of_datasheet is None
    assert share.of_measured == 0.5


def test_the_matmul_rate_is_a_plausible_number():
    assert 1e8 < measure_matmul_rate("cpu", torch.float32, seconds=0.05) < 1e14
