"""Documents of a packed row do not see each other, and learn what they learn alone."""

import json

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sft_app.config.schema.data import Packing
from sft_app.data.prepare_data import prepare_data
from tests.data.chat_files import LENGTH, settings, sharegpt


@pytest.fixture(scope="module")
def models():
    config = LlamaConfig(
        vocab_size=700,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        use_cache=False,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    return {"sdpa": model, "eager": model}


@pytest.fixture
def packed(tmp_path, tokenizer):
    path = tmp_path / "chats.json"
    path.write_text(json.dumps([sharegpt(7 * n, turns=1) for n in range(30)]))
    config = settings(path, tmp_path, eval_examples=0)
    return prepare_data(config, tokenizer, context_length=LENGTH, seed=1)


def documents_of(positions):
    starts = (positions == 0).nonzero().flatten().tolist()
    return list(zip(starts, [*starts[1:], len(positions)], strict=True))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_changing_one_document_changes_no_other(models, packed, attention):
    model = models[attention]
    model.set_attn_implementation(attention)
    batch = packed.collate([packed.train[0], packed.train[1]])
    inputs = {key: batch[key] for key in ("input_ids", "position_ids")}
    row, spans = 0, documents_of(batch["position_ids"][0])
    assert len(spans) >= 3, "too few documents to test anything"
    with torch.no_grad():
        before = model(**inputs).logits
        for start, stop in spans:
            changed = batch["input_ids"].clone()
            changed[row, start:stop] = (changed[row, start:stop] + 7) % 600
            after = model(input_ids=changed, position_ids=batch["position_ids"]).logits
            others = torch.ones(before.shape[:2], dtype=torch.bool)
            others[row, start:stop] = False
            assert (after - before)[others].abs().max() < 1e-5
            assert (after - before)[row, start:stop].abs().max() > 1e-3


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_document_has_the_logits_that_it_has_alone(models, packed, attention):
    model = models[attention]
    model.set_attn_implementation(attention)
    batch = packed.collate([packed.train[0]])
    with torch.no_grad():
        whole = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"]).logits
        for start, stop in documents_of(batch["position_ids"][0]):
            alone = model(input_ids=batch["input_ids"][:, start:stop]).logits
            assert (whole[:, start:stop] - alone).abs().max() < 1e-5


def test_no_label_asks_one_document_for_the_next_ones_first_token(packed):
    for index in range(len(packed.train)):
        batch = packed.collate([packed.train[index]])
        for start, _ in documents_of(batch["position_ids"][0]):
            assert batch["labels"][0, start] == -100


def test_packing_and_not_packing_learn_the_same_tokens(tmp_path, packed, tokenizer):
    config = settings(tmp_path / "chats.json", tmp_path, eval_examples=0, packing=Packing.none)
    unpacked = prepare_data(config, tokenizer, context_length=LENGTH, seed=1)

    def labels(data):
        return sorted(label for item in data.train for label in item["labels"].tolist())

    def supervised(data):
        return [label for label in labels(data) if label != -100]

    assert supervised(packed) == supervised(unpacked)
    assert packed.statistics.train == unpacked.statistics.train
