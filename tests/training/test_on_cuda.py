"""The CUDA paths against the portable ones, in bfloat16."""

import functools
import importlib
import inspect

import pytest
import torch
from torch.nn import functional as F
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from sft_app.config.schema.adapter import AdapterConfig, AdapterMethod
from sft_app.training.activation_memory.host_copies import HostCopies
from sft_app.training.attention import packed_attention
from sft_app.training.attention.choose_attention import choose_attention, verify_attention
from sft_app.training.attention.document_bounds import documents_of_lengths
from sft_app.training.attention.kernels import (
    AttentionSettings,
    choose_kernel,
    one_call_per_document,
    torch_varlen,
)
from sft_app.training.callbacks.compile_layers import CompileLayers
from sft_app.training.callbacks.offload_activations import OffloadActivations
from sft_app.training.loss.chunked_cross_entropy import chunked_cross_entropy
from sft_app.training.loss.liger_cross_entropy import liger_cross_entropy
from sft_app.training.peft.quantize import quantise
from tests.training import packing_census
from tests.training.attention.reference_kernels import KERNELS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize("key_heads", [2, 8])
def test_the_varlen_kernel_equals_one_call_per_document(window, key_heads):
    torch.manual_seed(0)
    documents = documents_of_lengths([300, 1, 723], "cuda", window)
    inputs = [
        torch.randn(1024, h, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        for h in (8, key_heads, key_heads)
    ]
    settings = AttentionSettings()
    assert choose_kernel(inputs[0], inputs[2], settings) is torch_varlen
    upstream = torch.randn_like(inputs[0])
    results = []
    for kernel in (torch_varlen, one_call_per_document):
        query, key, value = inputs
        output = kernel(query, key, value, documents, settings)
        results.append((output, *torch.autograd.grad(output, inputs, upstream)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-2, rtol=2e-2)


KERNEL_SIZES = {
    "hidden_size": 64, "linear_key_head_dim": 32, "linear_value_head_dim": 32,
    "linear_head_dim": 32, "linear_num_heads": 4, "head_dim": 32, "num_heads": 4,
    "state_size": 32, "expand": 2, "mamba_d_state": 32, "mamba_n_heads": 4, "mamba_d_head": 32,
    "mamba_d_ssm": 128, "chunk_size": 64, "mamba_chunk_size": 64,
}  # fmt: skip
"""Sizes that the kernels of other packages have code for."""


@pytest.mark.parametrize(
    ("family", "packages"),
    [
        ("qwen3_next", ("fla", "causal_conv1d")),
        ("qwen3_5_text", ("fla", "causal_conv1d")),
        ("olmo_hybrid", ("fla", "causal_conv1d")),
        ("kimi_linear", ("fla", "causal_conv1d")),
        ("lfm2", ("causal_conv1d",)),
        ("mamba2", ("mamba_ssm", "causal_conv1d")),
        ("bamba", ("mamba_ssm", "causal_conv1d")),
        ("falcon_h1", ("mamba_ssm", "causal_conv1d")),
    ],
)
def test_kernels_that_are_told_documents_give_each_what_it_gets_alone(
    monkeypatch, family, packages
):
    for package in packages:
        pytest.importorskip(package, reason=f"the kernels of {package} are not installed")
    default = CONFIG_MAPPING[family]()
    sizes = {name: size for name, size in KERNEL_SIZES.items() if hasattr(default, name)}
    own = packing_census.OWN_SIZES.get(family, {})
    monkeypatch.setitem(packing_census.OWN_SIZES, family, own | sizes)
    model = packing_census.tiny_model(family)
    assert model is not None
    model = model.cuda()
    how = verify_attention(model, choose_attention(model.config, "cuda", "auto")).reason
    assert "called once for all documents" in how, how
    for training in (False, True):
        model.train(training)
        assert packing_census.packed_against_alone(model) < 2e-2, "TF32"


@pytest.mark.parametrize("path", KERNELS)
def test_the_kernels_of_the_cpu_tests_have_the_signatures_of_the_real_ones(path):
    package, name = path.split(".")[0], path.split(".")[-1]
    pytest.importorskip(package, reason=f"the kernels of {package} are not installed")
    module = importlib.import_module(path.rpartition(".")[0])
    real = inspect.signature(getattr(module, name)).parameters
    assert list(real) == list(inspect.signature(KERNELS[path]).parameters)


def liger(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    pytest.importorskip("liger_kernel")
    return liger_cross_entropy(hidden, weight, targets)


@pytest.mark.parametrize("head", [functools.partial(chunked_cross_entropy, chunk_rows=256), liger])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.bfloat16, 2e-2), (torch.float32, 1e-5)], ids=str
)
def test_a_head_equals_plain_cross_entropy(head, dtype, tolerance):
    """Against the plain head in float64; the error is that of all elements together."""
    torch.manual_seed(0)
    hidden = torch.randn(700, 64, device="cuda", dtype=dtype, requires_grad=True)
    weight = (torch.randn(1000, 64, device="cuda", dtype=dtype) / 8).requires_grad_()
    targets = torch.randint(1000, (700,), device="cuda")
    plain = F.cross_entropy(F.linear(hidden.double(), weight.double()), targets, reduction="sum")
    ours = head(hidden, weight, targets)
    torch.testing.assert_close(ours.double(), plain, rtol=min(tolerance, 1e-3), atol=0)
    expected = torch.autograd.grad(plain, (hidden, weight))
    gradients = torch.autograd.grad(ours, (hidden, weight))
    for gradient, wanted in zip(gradients, expected, strict=True):
        assert (gradient - wanted).norm() <= tolerance * wanted.norm()


def test_compiled_layers_train_as_plain_ones(random_model):
    tokens = torch.randint(3, 97, (1, 64), device="cuda")
    positions = torch.arange(64, device="cuda")[None] % 20
    results = []
    for compiled in (False, True):
        packed_attention.register()
        model = random_model("llama", attention=packed_attention.NAME).cuda().train()
        callback = CompileLayers(model)
        if compiled:
            callback.on_train_begin()
        loss = model(tokens, labels=tokens, position_ids=positions).loss
        loss.backward()
        results.append([loss, *(p.grad for p in model.parameters())])
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


def test_heads_that_the_flash_kernel_has_no_code_for_go_one_document_at_a_time():
    query = torch.randn(10, 2, 20, device="cuda", dtype=torch.bfloat16)
    documents = documents_of_lengths([4, 6], "cuda")
    kernel = choose_kernel(query, query, AttentionSettings())
    assert kernel is one_call_per_document
    assert kernel(query, query, query, documents, AttentionSettings()).isfinite().all()


def test_paged_and_plain_8_bit_states_take_the_same_steps():
    bitsandbytes = pytest.importorskip("bitsandbytes")
    results = []
    for is_paged in (False, True):
        torch.manual_seed(0)
        parameter = torch.nn.Parameter(torch.randn(512, 512, device="cuda"))
        optimizer = bitsandbytes.optim.AdamW([parameter], optim_bits=8, is_paged=is_paged)
        for _ in range(3):
            parameter.grad = torch.randn_like(parameter)
            optimizer.step()
        results.append(parameter.detach())
    assert torch.equal(*results)


def test_weights_in_4_bits_are_those_that_a_cpu_makes(random_model):
    pytest.importorskip("bitsandbytes")
    adapter = AdapterConfig(method=AdapterMethod.qlora)
    tokens = torch.randint(3, 97, (2, 64))
    logits = []
    for name in ("cpu", "cuda"):
        model = random_model("llama", hidden_size=64, intermediate_size=128)
        quantise(model, adapter, torch.device(name))
        assert {p.device.type for p in model.parameters()} == {name}
        with torch.no_grad():
            logits.append(model(tokens.to(name)).logits.cpu())
    torch.testing.assert_close(*logits, atol=2e-2, rtol=2e-2)


def test_activations_kept_on_the_host_give_the_same_gradients(random_model):
    """Copies that run beside the computing; tiny tensors too, so that many are in flight."""
    tokens = torch.arange(64, device="cuda").reshape(2, 32)
    found = []
    for offloads in (False, True):
        model = random_model("llama", num_hidden_layers=6).to("cuda").train()
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
        if offloads:
            callback = OffloadActivations(model, torch.device("cuda"))
            callback.copies = HostCopies(torch.device("cuda"), smallest=0)
            callback.on_train_begin()
        for _ in range(3):
            model(input_ids=tokens, labels=tokens).loss.backward()
        found.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-6, rtol=1e-5)
