"""Kernels that know documents are called once for all of them, where that has been found exact."""

import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from sft_app.training.attention import document_kernels
from sft_app.training.attention.choose_attention import choose_attention, verify_attention
from tests.newer_transformers import NEEDS_TOLD_CONVOLUTIONS
from tests.training import packing_census
from tests.training.attention import reference_kernels
from tests.training.attention.reference_kernels import KERNELS, install
from tests.training.packing_census import copy_calls_its_own_layers, packed_against_alone

CONVOLUTION = "causal_conv1d.causal_conv1d_fn"
FAMILIES = {
    "qwen3_next": "Qwen3NextGatedDeltaNet",
    "qwen3_5_text": "Qwen3_5GatedDeltaNet",
    "olmo_hybrid": "OlmoHybridGatedDeltaNet",
    "kimi_linear": "KimiLinearDeltaAttention",
    "lfm2": "Lfm2ShortConv",
    "mamba2": "Mamba2Mixer",
    "bamba": "BambaMixer",
    "falcon_h1": "FalconH1Mixer",
    "granitemoehybrid": "GraniteMoeHybridMambaLayer",
    "nemotron_h": "NemotronHMamba2Mixer",
    "zamba2": "Zamba2MambaMixer",
}
"""Families, and their layers that documents see each other through."""

Build = Callable[[str], PreTrainedModel]


@pytest.fixture(autouse=True)
def small_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the probe, as kernels without chunks allow, and the heads of Kimi."""
    monkeypatch.setattr(document_kernels, "ROWS", ((9, 1, 6), (11, 5)))
    sizes = {"linear_head_dim": 8, "linear_num_heads": 4}
    monkeypatch.setitem(packing_census.OWN_SIZES, "kimi_linear", sizes)


def with_kernels(
    monkeypatch: pytest.MonkeyPatch, model: PreTrainedModel, kernels: dict[str, Any] = KERNELS
) -> str:
    """Return how packed rows are trained with these kernels installed."""
    install(monkeypatch, modeling_of(model), kernels)
    return verify_attention(model, choose_attention(model.config, "cpu", "auto")).reason


def modeling_of(model: PreTrainedModel) -> ModuleType:
    return sys.modules[type(model).__module__]


class Ignoring:
    """A kernel that takes documents, and makes nothing of them."""

    def __init__(self, kernel: Callable[..., Any]) -> None:
        self.kernel, self.__signature__ = kernel, inspect.signature(kernel)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        documents = ("seq_idx", "cu_seqlens")
        return self.kernel(*args, **{k: v for k, v in kwargs.items() if k not in documents})


@pytest.mark.parametrize(
    "family",
    [pytest.param(f, marks=NEEDS_TOLD_CONVOLUTIONS if f == "lfm2" else ()) for f in FAMILIES],
)
def test_one_call_gives_each_document_what_it_gets_alone(
    monkeypatch: pytest.MonkeyPatch, small_family: Build, family: str
) -> None:
    model = small_family(family)
    how = with_kernels(monkeypatch, model)
    assert f"{FAMILIES[family]} called once for all documents" in how
    assert "once per document;" not in how
    for training in (False, True):
        assert packed_against_alone(model.train(training)) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_the_kernels_of_these_tests_compute_what_the_family_does(
    monkeypatch: pytest.MonkeyPatch, small_family: Build, family: str
) -> None:
    model = small_family(family)
    tokens = torch.arange(3, 73).reshape(2, 35)
    plain = model(tokens).logits
    install(monkeypatch, modeling_of(model), KERNELS)
    for training in (False, True):
        ours = model.train(training)(tokens).logits
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)


@NEEDS_TOLD_CONVOLUTIONS
def test_every_layer_calls_its_kernel_once_for_a_batch(
    monkeypatch: pytest.MonkeyPatch, small_family: Build
) -> None:
    calls = []

    def counted(x, weight, bias=None, seq_idx=None, activation=None):
        calls.append(None if seq_idx is None else seq_idx.tolist())
        return reference_kernels.causal_conv1d_fn(x, weight, bias, seq_idx, activation=activation)

    model = small_family("lfm2")
    with_kernels(monkeypatch, model, {CONVOLUTION: counted})
    calls.clear()
    positions = torch.tensor([[0, 1, 2, 0, 1], [0, 1, 0, 1, 2]])
    tokens = torch.arange(3, 13).view(2, 5)
    model(input_ids=tokens, position_ids=positions)
    assert calls == [[[0, 0, 0, 1, 1, 2, 2, 3, 3, 3]]], "one layer, one call, one row"
    calls.clear()
    model(input_ids=tokens)
    assert calls == [None], "rows that are not packed"


@pytest.mark.parametrize(
    ("family", "kernel"),
    [
        ("qwen3_next", "fla.ops.gated_delta_rule.chunk_gated_delta_rule"),
        ("qwen3_next", CONVOLUTION),
        ("kimi_linear", "fla.ops.kda.chunk_kda"),
        pytest.param("lfm2", CONVOLUTION, marks=NEEDS_TOLD_CONVOLUTIONS),
        # Called in training alone, and in evaluation alone.
        ("mamba2", "mamba_ssm.ops.triton.ssd_combined.mamba_split_conv1d_scan_combined"),
        ("mamba2", "mamba_ssm.ops.triton.ssd_combined.mamba_chunk_scan_combined"),
    ],
)
def test_a_kernel_that_ignores_documents_is_found_out(
    monkeypatch: pytest.MonkeyPatch, small_family: Build, family: str, kernel: str
) -> None:
    model = small_family(family)
    how = with_kernels(monkeypatch, model, KERNELS | {kernel: Ignoring(KERNELS[kernel])})
    assert f"{FAMILIES[family]} called once per document" in how
    assert "of a gradient comes from another" in how
    for training in (False, True):
        assert packed_against_alone(model.train(training)) < 1e-5


class _TwiceTheGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


@NEEDS_TOLD_CONVOLUTIONS
def test_a_kernel_whose_backward_is_wrong_with_documents_is_found_out(
    monkeypatch: pytest.MonkeyPatch, small_family: Build
) -> None:
    def wrong(x, weight, bias=None, seq_idx=None, activation=None):
        x = x if seq_idx is None else _TwiceTheGradient.apply(x)
        return reference_kernels.causal_conv1d_fn(x, weight, bias, seq_idx, activation=activation)

    model = small_family("lfm2")
    how = with_kernels(monkeypatch, model, {CONVOLUTION: wrong})
    assert "Lfm2ShortConv called once per document" in how
    assert "not in one call: told its documents, it differs from that by" in how
    assert packed_against_alone(model) < 1e-5


@NEEDS_TOLD_CONVOLUTIONS
def test_a_kernel_that_fails_with_documents_is_not_told_them(
    monkeypatch: pytest.MonkeyPatch, small_family: Build
) -> None:
    def failing(x, weight, bias=None, seq_idx=None, activation=None):
        if seq_idx is not None:
            raise Exception("out of shared memory. Reduce block sizes.\nat line 3")
        return reference_kernels.causal_conv1d_fn(x, weight, bias, activation=activation)

    how = with_kernels(monkeypatch, small_family("lfm2"), {CONVOLUTION: failing})
    assert how.endswith(
        "once per document; not in one call: told its documents, out of shared memory"
    )


def test_mamba_whose_scan_is_told_no_documents_stays_per_document(
    monkeypatch: pytest.MonkeyPatch, small_family: Build
) -> None:
    model = small_family("mamba")
    how = with_kernels(monkeypatch, model)
    assert "MambaMixer called once per document" in how
    assert "of a gradient comes from another" in how
    assert packed_against_alone(model) < 1e-5


@NEEDS_TOLD_CONVOLUTIONS
def test_without_the_packages_the_reason_names_what_is_missing(small_family: Build) -> None:
    model = small_family("lfm2")
    how = verify_attention(model, choose_attention(model.config, "cpu", "auto")).reason
    assert "Lfm2ShortConv called once per document; not in one call: told its documents" in how
    assert "causal_conv1d" in how or "of a gradient comes from another" in how  # before 5.23


def test_recomputed_layers_are_told_the_same_documents(
    monkeypatch: pytest.MonkeyPatch, small_family: Build
) -> None:
    model = small_family("mamba2")
    with_kernels(monkeypatch, model)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert packed_against_alone(model.train()) < 1e-5


def test_a_deep_copy_tells_its_own_layers(
    monkeypatch: pytest.MonkeyPatch, small_family: Build
) -> None:
    model = small_family("lfm2")
    with_kernels(monkeypatch, model)
    assert copy_calls_its_own_layers(model)
