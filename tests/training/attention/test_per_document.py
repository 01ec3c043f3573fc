"""Layers without documents are called once for each: what comes out is what each gives alone."""

import pytest
import torch

from sft_app.training.attention.choose_attention import choose_attention, verify_attention
from sft_app.training.attention.packed_forward import lengths_for_layers, packed_documents
from tests.newer_transformers import CHUNKS_RESTART_WITH_DOCUMENTS
from tests.training.packing_census import (
    Answer,
    answers,
    ask,
    copy_calls_its_own_layers,
    packed_against_alone,
    tiny_model,
)

FAMILIES = {
    "qwen3_5_text": "Qwen3_5GatedDeltaNet",
    "lfm2": "Lfm2ShortConv",
    "falcon_h1": "FalconH1Mixer",
    "mamba": "MambaMixer",
    "bloom": "BloomAttention",
}
# Falcon isolates by itself from transformers 5.24 on.
OTHERS = {
    "falcon": "sdpa",
    "opt": "sft_packed",
    "gpt_oss": "sft_packed",
    "llama4_text": "sft_packed",
}


@pytest.mark.parametrize("family", FAMILIES | OTHERS)
def test_loss_and_gradients_are_those_of_each_document_alone(family: str) -> None:
    answer = ask(family)
    if family == "llama4_text" and not CHUNKS_RESTART_WITH_DOCUMENTS:
        pytest.skip("transformers before 5.23 cuts chunks of the row: such a model is not packed")
    assert isinstance(answer, Answer) and answer.packed
    assert (FAMILIES | OTHERS)[family] in answer.how
    assert "own loss" not in answer.how
    assert answer.difference is not None and answer.difference < 2e-6


def test_recomputed_layers_see_the_same_documents() -> None:
    model = tiny_model("lfm2")
    assert model is not None
    verify_attention(model, choose_attention(model.config, "cpu", "auto"))
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    assert packed_against_alone(model) < 2e-6


def test_rows_that_are_not_packed_are_called_whole() -> None:
    model = tiny_model("lfm2")
    assert model is not None
    tokens = torch.arange(3, 15).unsqueeze(0)
    before = model(tokens).logits
    verify_attention(model, choose_attention(model.config, "cpu", "auto"))
    torch.testing.assert_close(model(tokens).logits, before)


def test_a_deep_copy_calls_its_own_layers() -> None:
    model = tiny_model("lfm2")
    assert model is not None
    verify_attention(model, choose_attention(model.config, "cpu", "auto"))
    assert copy_calls_its_own_layers(model)


def test_a_batch_with_a_mask_or_a_cache_has_no_packed_documents() -> None:
    positions = torch.tensor([[0, 1, 0, 1, 2]])
    with packed_documents(positions):
        assert lengths_for_layers(1, 5) == (2, 3)
        assert lengths_for_layers(1, 4) is None, "another batch"
    with packed_documents(positions, attention_mask=torch.ones(1, 5)):
        assert lengths_for_layers(1, 5) is None
    with packed_documents(positions, past_key_values=object()):
        assert lengths_for_layers(1, 5) is None


@pytest.mark.slow
def test_every_family_that_packs_is_exact() -> None:
    found = [answer for answer in answers() if isinstance(answer, Answer)]
    packed = [answer for answer in found if answer.packed]
    assert len(packed) > 100
    for answer in packed:
        assert answer.difference is not None, answer
        assert answer.difference < (1e-3 if answer.family == "hy_v4" else 5e-6), answer
