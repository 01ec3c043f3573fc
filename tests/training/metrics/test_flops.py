"""FLOPs follow the published formula, and what PyTorch counts while a model runs."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sft_app.training.metrics.flops import ModelShape, flops_of_batch, shape_of
from sft_app.training.metrics.throughput import datasheet_rate, measure_matmul_rate, utilisation

SHAPE = ModelShape(body_factor=6_000, head_factor=60, attention_size=64, windows=(None, None))


def test_packed_documents_cost_the_sum_of_documents_not_the_square_of_the_row():
    alone = flops_of_batch(SHAPE, [300], 100)
    assert flops_of_batch(SHAPE, [300] * 4, 400) == 4 * alone
    assert flops_of_batch(SHAPE, [1200], 400) > 4 * alone


def test_the_formula_of_one_document():
    assert flops_of_batch(SHAPE, [10], 3) == 6_000 * 10 + 60 * 3 + 6 * 2 * 64 * 10**2


def test_a_window_bounds_attention():
    windowed = ModelShape(0, 0, attention_size=1, windows=(4,))
    assert flops_of_batch(windowed, [3], 0) == 6 * 9
    assert flops_of_batch(windowed, [100], 0) == 6 * (2 * 100 * 4 - 16)


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


def test_windows_are_read_layer_by_layer(random_model):
    assert shape_of(random_model("gemma3_text")).windows == (6, None)
    assert shape_of(random_model("mistral")).windows == (6, 6)
    assert shape_of(random_model("llama")).windows == (None, None)


@pytest.mark.parametrize("family", ["mamba", "mamba2", "falcon_mamba", "rwkv", "xlstm"])
def test_a_family_without_attention_costs_what_its_matrices_do(small_family, family):
    shape = shape_of(small_family(family))
    once, twice = (flops_of_batch(shape, [length], length) for length in (100, 200))
    assert twice == 2 * once > 0


@pytest.mark.parametrize("family", ["lfm2", "qwen3_next", "jamba", "nemotron_h"])
def test_of_a_hybrid_the_layers_that_attend_grow_with_the_square(small_family, family):
    """The tiny ones have one such layer, of four heads of eight."""
    shape = shape_of(small_family(family))
    assert shape.windows in ((None,), (6,))  # LFM2's configuration has a window
    assert shape.attention_size == 32


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
