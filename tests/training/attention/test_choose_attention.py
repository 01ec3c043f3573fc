"""Packing is used where the loaded model proves that documents stay apart, else refused."""

import pytest
import torch
from transformers import AutoConfig, masking_utils

from sft_app.common.errors import ConfigError
from sft_app.config.schema.adapter import AdapterConfig, AdapterMethod
from sft_app.config.schema.data import Packing
from sft_app.config.schema.model import PaddingSide
from sft_app.training.attention import choose_attention as choose_attention_module
from sft_app.training.attention import kernels, packed_attention
from sft_app.training.attention.choose_attention import (
    AttentionPlan,
    DocumentsLeak,
    choose_attention,
    verify_attention,
)
from sft_app.training.attention.verify_isolation import verify_isolation
from sft_app.training.packing_plan import plan_packing
from sft_app.training.peft.lora import put_adapter
from sft_app.training.prepare_model import settle_attention
from tests.newer_transformers import CHUNKS_RESTART_WITH_DOCUMENTS
from tests.training.packing_census import packed_against_alone


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral", "gemma2", "mixtral", "gptj"])
def test_families_that_isolate_are_verified_to(random_model, family):
    model = random_model(family)
    choice = choose_attention(model.config, "cpu", requested="auto")
    assert verify_attention(model, choice).name == choice.name
    assert verify_isolation(model).isolated


def test_a_family_that_lets_documents_see_each_other_is_refused(random_model):
    model = random_model("openai-gpt")
    with pytest.raises(DocumentsLeak, match=r"does not keep packed documents apart.*packing=auto"):
        verify_attention(model, AttentionPlan("eager", "test"))


def test_with_packing_auto_it_trains_on_rows_of_similar_length(random_model):
    model = random_model("openai-gpt")
    plan = plan_packing(Packing.auto, PaddingSide.right)
    packing, choice = settle_attention(model, model, plan, AttentionPlan("eager", "test"))
    assert (plan.packed, packing.packed, choice.name) == (True, False, "eager")
    assert "OpenAIGPTLMHeadModel" in packing.reason
    asked_for = plan_packing(Packing.best_fit, PaddingSide.right)
    with pytest.raises(DocumentsLeak):
        settle_attention(model, model, asked_for, AttentionPlan("eager", "test"))


def test_left_padding_is_not_packed():
    assert not plan_packing(Packing.auto, PaddingSide.left).packed


def test_a_cache_in_training_breaks_packing_and_is_named(random_model):
    model = random_model("llama")
    model.config.use_cache = True
    with pytest.raises(ConfigError, match="use_cache is on"):
        verify_attention(model, AttentionPlan("eager", "test", asked_for=True))


def test_documents_longer_than_a_chunk_that_rows_count_are_found_out(random_model, monkeypatch):
    """As transformers 5.17 did: chunks of Llama-4 that begin with the row, not the document."""

    def chunks_of_the_row(mask_function, position_ids, packed_sequence_mask=None):
        if packed_sequence_mask is None:  # 5.24 compares documents in a place of its own
            return mask_function
        same_document = masking_utils.packed_sequence_mask_function(packed_sequence_mask)
        return masking_utils.and_masks(mask_function, same_document)

    model = random_model("llama4_text", attention_chunk_size=16, attention="sdpa")
    names = ("packed_sequence_compatibility_function", "remap_positions_for_packed_sequence")
    counted_from_documents = [name for name in names if hasattr(masking_utils, name)]
    for name in counted_from_documents[:1]:  # 5.23 has both, the second inside the first
        assert verify_isolation(model).isolated
        monkeypatch.setattr(masking_utils, name, chunks_of_the_row)
    check = verify_isolation(model)
    assert not check.isolated
    assert check.leak < 1e-5 < check.difference, "no document sees another: its chunks are shifted"


def test_windows_are_put_back(random_model):
    model = random_model("mistral", sliding_window=64)
    verify_isolation(model)
    assert model.config.sliding_window == 64


def test_out_of_memory_is_no_reason_for_another_kernel(random_model, monkeypatch):
    def exhaust(*args, **kwargs):
        raise torch.OutOfMemoryError("no memory")

    packed_attention.register()
    monkeypatch.setattr(packed_attention, "_attend_inside_documents", exhaust)
    with pytest.raises(torch.OutOfMemoryError):
        verify_attention(random_model("llama"), AttentionPlan(packed_attention.NAME, "auto"))


def test_a_family_without_sdpa_is_compared_with_its_own_attention(random_model, monkeypatch):
    plan = choose_attention(random_model("gpt_oss").config, "cpu", "auto")
    assert plan.name == packed_attention.NAME
    assert verify_attention(random_model("gpt_oss"), plan).name == packed_attention.NAME
    monkeypatch.setattr(packed_attention, "AttentionSettings", without_sinks)
    choice = verify_attention(random_model("gpt_oss"), plan)
    assert choice.name == "eager"
    assert "differs from the family's own attention" in choice.reason


def test_a_family_with_sdpa_is_compared_with_its_own_attention_as_well(small_family):
    """MiniMax-M3 hands other attentions than its own no choice of blocks: they would see all."""
    model = small_family("minimax_m3_vl_text")
    plan = choose_attention(model.config, "cpu", "auto")
    assert plan.name == packed_attention.NAME
    choice = verify_attention(model, plan)
    assert choice.name == "sdpa"
    assert "sft_packed differs from the family's own attention" in choice.reason
    assert packed_against_alone(model) < 1e-5


def test_an_attention_that_was_asked_for_and_drops_what_it_is_handed_is_refused(small_family):
    model = small_family("minimax_m3_vl_text")
    asked_for = choose_attention(model.config, "cpu", packed_attention.NAME)
    with pytest.raises(ConfigError, match="sft_packed differs from the family's own attention"):
        verify_attention(model, asked_for)


def test_blocks_that_are_chosen_by_the_row_s_positions_are_found_out(small_family):
    model = small_family("minimax_m3_vl_text")
    model.set_attn_implementation("sdpa")
    assert not verify_isolation(model).isolated
    indexer = model.model.layers[1].self_attn.indexer
    assert (indexer.block_size, indexer.topk_blocks) == (128, 16), "they are put back"


def without_sinks(scale, softcap, dropout, sinks):
    return kernels.AttentionSettings(scale, softcap, dropout, None)


def test_what_the_packed_kernel_cannot_do_falls_back_and_says_so(random_model, monkeypatch):
    def refuse(*args, **kwargs):
        raise RuntimeError("attention with s_aux has no packed kernel")

    packed_attention.register()
    monkeypatch.setattr(packed_attention, "_attend_inside_documents", refuse)
    choice = verify_attention(random_model("llama"), AttentionPlan(packed_attention.NAME, "auto"))
    assert choice.name == "sdpa"
    assert "s_aux has no packed kernel" in str(choice)


def test_an_implementation_that_was_asked_for_is_never_replaced(random_model):
    model = random_model("llama")
    choice = choose_attention(model.config, "cpu", requested="eager")
    assert verify_attention(model, choice).name == "eager"


@pytest.mark.parametrize("requested", ["flex_attention", "flash_attention_2"])
def test_kernels_without_a_backward_on_cpu_are_refused(requested):
    with pytest.raises(ConfigError, match="trains on CUDA only"):
        choose_attention(AutoConfig.for_model("llama"), "cpu", requested=requested)


def test_soft_capped_models_get_a_kernel_that_caps(random_model):
    """SDPA has no soft cap; transformers would leave it out in silence."""
    tokens = torch.arange(2, 26)[None]
    eager = random_model("gemma2", attention="eager", attn_logit_softcapping=1.0)
    choice = choose_attention(eager.config, "cpu", requested="auto")
    chosen = random_model("gemma2", attention=choice.name, attn_logit_softcapping=1.0)
    torch.testing.assert_close(chosen(tokens).logits, eager(tokens).logits)
    uncapped = random_model("gemma2", attention="eager", attn_logit_softcapping=None)
    assert not torch.allclose(uncapped(tokens).logits, eager(tokens).logits)


def test_soft_capped_models_use_flex_attention_on_cuda_without_flash_attn():
    choice = choose_attention(AutoConfig.for_model("gemma2"), "cuda", "auto")
    assert choice.name == "flex_attention"


def test_with_flash_attn_installed_a_family_without_it_trains_lora(random_model, monkeypatch):
    for module in (choose_attention_module, kernels):
        monkeypatch.setattr(module, "is_installed", lambda name: True)
    if not CHUNKS_RESTART_WITH_DOCUMENTS:
        pytest.skip("transformers before 5.23 cuts chunks of the row: such a model is not packed")
    model_class = type(random_model("llama4_text"))
    assert not model_class._supports_flash_attn, "the test needs another family"
    plan = choose_attention(AutoConfig.for_model("llama4_text"), "cuda", "auto")
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
    model.config.use_cache = True  # then transformers isolates nothing
    assert not verify_isolation(model).isolated
