"""Packed rows: each document is attended to as if it stood alone, at no cost for the others."""

from unittest import mock

import pytest
import torch

from sft_app.training.attention import packed_attention
from sft_app.training.attention.document_bounds import (
    Documents,
    documents_of_lengths,
    documents_of_mask,
    lengths_from_positions,
)
from sft_app.training.attention.kernels import AttentionSettings, one_call_per_document
from tests.newer_transformers import CHUNKS_RESTART_WITH_DOCUMENTS

LENGTHS = [5, 9, 17, 1]  # longer and shorter than the tiny models' window of 6 and chunk of 8
FAMILIES = [
    "llama",
    "gpt2",
    "mistral",
    "gemma2",
    "gemma3_text",
    "cohere2",
    "mixtral",
    "llama4_text",
    "deepseek_v3",
]

packed_attention.register()


def positions_of(lengths: list[int]) -> torch.Tensor:
    return torch.cat([torch.arange(length) for length in lengths])[None]


def some_tokens(*shape: int) -> torch.Tensor:
    return torch.randint(3, 97, shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_packed_document_has_the_logits_it_has_alone(random_model, family):
    if family == "llama4_text" and not CHUNKS_RESTART_WITH_DOCUMENTS:
        pytest.skip("transformers before 5.23 cuts chunks of the row, not of the document")
    model = random_model(family, attention="eager")
    row = some_tokens(1, sum(LENGTHS))
    alone = torch.cat([model(document).logits for document in row.split(LENGTHS, dim=1)], dim=1)

    model.set_attn_implementation(packed_attention.NAME)
    packed = model(row, position_ids=positions_of(LENGTHS)).logits

    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("family", "dense"), [("llama", "sdpa"), ("gemma2", "eager")])
def test_gradients_equal_those_of_the_dense_mask(random_model, family, dense):
    row, positions = some_tokens(1, sum(LENGTHS)), positions_of(LENGTHS)
    gradients = []
    for implementation in (dense, packed_attention.NAME):
        model = random_model(family, attention=implementation)
        model(row, position_ids=positions, labels=row).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])

    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_rows_of_a_batch_are_packed_independently(random_model):
    model = random_model("llama", attention=packed_attention.NAME)
    rows = some_tokens(2, 12)
    positions = torch.cat([positions_of([4, 8]), positions_of([7, 5])])

    together = model(rows, position_ids=positions).logits

    for index in range(2):
        single = model(rows[[index]], position_ids=positions[[index]]).logits
        torch.testing.assert_close(together[[index]], single, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_padded_rows_are_what_they_are_without_padding(random_model, family, side):
    model = random_model(family, attention=packed_attention.NAME)
    tokens = some_tokens(1, 9)
    real, pads = torch.ones(1, 9, dtype=torch.long), torch.zeros(1, 4, dtype=torch.long)
    parts = (tokens, pads) if side == "right" else (pads, tokens)
    mask = torch.cat((real, pads) if side == "right" else (pads, real), dim=1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)

    padded = model(torch.cat(parts, dim=1), attention_mask=mask, position_ids=positions).logits

    kept = padded[:, :9] if side == "right" else padded[:, 4:]
    torch.testing.assert_close(kept, model(tokens).logits, atol=1e-5, rtol=0)


def test_generation_with_a_cache_is_unchanged(random_model):
    prompt = some_tokens(1, 7)
    generated = [
        random_model("gemma2", attention=name).generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=6, use_cache=True
        )
        for name in ("eager", packed_attention.NAME)
    ]
    assert generated[0].tolist() == generated[1].tolist()


def test_recomputed_activations_give_the_same_gradients(random_model):
    row, positions = some_tokens(1, sum(LENGTHS)), positions_of(LENGTHS)
    gradients = []
    for checkpointing in (False, True):
        model = random_model("llama", attention=packed_attention.NAME).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(row, position_ids=positions, labels=row).loss.backward()
        gradients.append(model.model.layers[0].self_attn.q_proj.weight.grad)
    torch.testing.assert_close(*gradients)


def test_documents_are_found_once_per_forward_not_once_per_layer(random_model, monkeypatch):
    calls = mock.Mock(wraps=documents_of_mask)
    monkeypatch.setattr(packed_attention, "documents_of_mask", calls)
    model = random_model("llama", attention=packed_attention.NAME)
    model(some_tokens(1, 12), position_ids=positions_of([4, 8]))
    assert calls.call_count == 1


def test_padding_between_tokens_falls_back_to_the_dense_mask():
    mask = packed_attention.make_documents(
        batch_size=1,
        q_length=4,
        kv_length=4,
        mask_function=lambda row, head, query, key: key <= query,
        attention_mask=torch.tensor([[True, False, True, True]]),
    )
    assert isinstance(mask, torch.Tensor)
    assert mask.shape == (1, 1, 4, 4)


def test_a_plain_causal_batch_needs_no_mask():
    mask = packed_attention.make_documents(
        batch_size=2,
        q_length=4,
        kv_length=4,
        mask_function=lambda row, head, query, key: key <= query,
    )
    assert mask is None


def test_a_rule_that_looks_ahead_falls_back_to_the_dense_mask():
    mask = packed_attention.make_documents(
        batch_size=1,
        q_length=4,
        kv_length=4,
        mask_function=lambda row, head, query, key: (query >= 0) & (key >= 0),
        allow_is_causal_skip=False,
    )
    assert isinstance(mask, torch.Tensor)
    assert bool(mask.all())


@pytest.mark.parametrize("softcap", [None, 5.0])
def test_a_window_inside_a_document_equals_the_banded_mask(softcap):
    torch.manual_seed(0)
    length, window = 23, 5
    query, key, value = (torch.randn(length, heads, 8) for heads in (4, 2, 2))
    documents: Documents = documents_of_lengths([length], "cpu", window)
    settings = AttentionSettings(softcap=softcap)

    ours = one_call_per_document(query, key, value, documents, settings)

    distance = torch.arange(length)[:, None] - torch.arange(length)
    scores = torch.einsum("qhd,khd->hqk", query, key.repeat_interleave(2, 1)) / 8**0.5
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill((distance < 0) | (distance >= window), -torch.inf)
    dense = torch.einsum("hqk,khd->qhd", scores.softmax(-1), value.repeat_interleave(2, 1))
    torch.testing.assert_close(ours, dense, atol=1e-5, rtol=0)


def test_lengths_from_positions_that_restart():
    positions = torch.tensor([[0, 1, 2, 0, 1], [0, 0, 1, 2, 3]])
    assert lengths_from_positions(positions) == [3, 2, 1, 4]
