"""Packing is used where the loaded model proves that documents stay apart, else refused."""

import pytest
import torch
from transformers import AutoConfig

from sft_app.common.errors import ConfigError
from sft_app.config.schema.adapter import AdapterConfig, AdapterMethod
from sft_app.training.attention import choose_attention as choose_attention_module
from sft_app.training.attention import kernels, packed_attention
from sft_app.training.attention.choose_attention import (
    LEAKING_FAMILIES,
    AttentionPlan,
    choose_attention,
    verify_attention,
)
from sft_app.training.attention.verify_isolation import verify_isolation
from sft_app.training.peft.lora import put_adapter


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral", "gemma2", "mixtral", "gptj"])
def test_families_that_isolate_are_verified_to(random_model, family):
    model = random_model(family)
    choice = choose_attention(model.config, "cpu", packing=True, requested="auto")
    assert verify_attention(model, choice).name == choice.name
    assert verify_isolation(model).isolated


@pytest.mark.parametrize("family", sorted(LEAKING_FAMILIES - {"mamba"}))
def test_families_known_to_leak_do_leak(random_model, family):
    model = random_model(family)
    with pytest.raises(ConfigError, match=r"does not keep packed documents apart.*packing=none"):
        verify_attention(model, AttentionPlan("eager", "test"))


@pytest.mark.parametrize("family", sorted(LEAKING_FAMILIES))
def test_they_are_refused_before_weights_are_loaded(family):
    with pytest.raises(ConfigError, match=f"{family} models do not keep packed documents apart"):
        choose_attention(AutoConfig.for_model(family), "cpu", packing=True, requested="auto")


def test_a_cache_in_training_breaks_packing_and_is_named(random_model):
    model = random_model("llama")
    model.config.use_cache = True
    with pytest.raises(ConfigError, match="use_cache is on"):
        verify_attention(model, AttentionPlan(packed_attention.NAME, "test"))


def test_what_the_packed_kernel_cannot_do_falls_back_and_says_so(random_model, monkeypatch):
    def refuse(*args, **kwargs):
        raise NotImplementedError("attention with s_aux has no packed kernel")

    packed_attention.register()
    monkeypatch.setattr(packed_attention, "_attend_inside_documents", refuse)
    choice = verify_attention(random_model("llama"), AttentionPlan(packed_attention.NAME, "auto"))
    assert choice.name == "sdpa"
    assert "s_aux has no packed kernel" in str(choice)


def test_an_implementation_that_was_asked_for_is_never_replaced(random_model):
    model = random_model("llama")
    choice = choose_attention(model.config, "cpu", packing=True, requested="eager")
    assert verify_attention(model, choice).name == "eager"


@pytest.mark.parametrize("requested", ["flex_attention", "flash_attention_2"])
def test_kernels_without_a_backward_on_cpu_are_refused(requested):
    with pytest.raises(ConfigError, match="trains on CUDA only"):
        choose_attention(AutoConfig.for_model("llama"), "cpu", packing=False, requested=requested)


def test_soft_capped_models_get_a_kernel_that_caps(random_model):
    """SDPA has no soft cap; transformers would leave it out in silence."""
    tokens = torch.arange(2, 26)[None]
    eager = random_model("gemma2", attention="eager", attn_logit_softcapping=1.0)
    choice = choose_attention(eager.config, "cpu", packing=True, requested="auto")
    chosen = random_model("gemma2", attention=choice.name, attn_logit_softcapping=1.0)
    torch.testing.assert_close(chosen(tokens).logits, eager(tokens).logits)
    uncapped = random_model("gemma2", attention="eager", attn_logit_softcapping=None)
    assert not torch.allclose(uncapped(tokens).logits, eager(tokens).logits)


def test_soft_capped_models_use_flex_attention_on_cuda_without_flash_attn():
    choice = choose_attention(AutoConfig.for_model("gemma2"), "cuda", True, "auto")
    assert choice.name == "flex_attention"


def test_with_flash_attn_installed_a_family_without_it_trains_lora(random_model, monkeypatch):
    for module in (choose_attention_module, kernels):
        monkeypatch.setattr(module, "is_installed", lambda name: True)
    model_class = type(random_model("llama4_text"))
    assert not model_class._supports_flash_attn, "the test needs another family"
    plan = choose_attention(AutoConfig.for_model("llama4_text"), "cuda", True, "auto")
    model = random_model("llama4_text", attention=plan.name)
    trained = put_adapter(model, AdapterConfig(method=AdapterMethod.lora))
    choice = verify_attention(model, plan, trained)
    assert choice.name == plan.name, "what is logged before loading holds after it"
    tokens = torch.arange(3, 15).unsqueeze(0)
    trained(input_ids=tokens, labels=tokens).loss.backward()
    assert any(p.grad is not None and p.grad.any() for p in trained.parameters())


def test_the_check_leaves_the_model_in_the_mode_it_was_in(random_model):
    model = random_model("llama").train()
    verify_isolation(model)
    assert model.training


def test_the_check_holds_in_bfloat16(random_model):
    model = random_model("llama", attention="sdpa").to(torch.bfloat16)
    assert verify_isolation(model).isolated
    model.config.use_cache = True
    assert not verify_isolation(model).isolated
