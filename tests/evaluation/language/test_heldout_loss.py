"""Held-out loss: each supervised token counts the same, however the examples are batched."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sft_app.evaluation.language.heldout_loss import limit_tokens, measure_loss
from sft_app.evaluation.token_reader import TokenReader


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=2,
                         num_attention_heads=2, max_position_embeddings=64)  # fmt: skip
    return LlamaForCausalLM(config)


@pytest.fixture(scope="module")
def examples() -> list[dict[str, torch.Tensor]]:
    """Five examples of different length and share of supervised tokens."""
    torch.manual_seed(1)
    made = []
    for length in (7, 30, 12, 50, 12):
        ids = torch.randint(64, (length,))
        labels = torch.where(torch.rand(length) < 0.6, ids, -100)
        made.append({"input_ids": ids, "labels": labels})
    return made


def loss_by_hand(model: LlamaForCausalLM, examples: list[dict[str, torch.Tensor]]) -> float:
    """One example and one token at a time, in float64."""
    nats, tokens = 0.0, 0
    model.eval()
    for example in examples:
        with torch.no_grad():
            logits = model(input_ids=example["input_ids"][None]).logits[0].double()
        for position in range(1, len(example["labels"])):
            target = int(example["labels"][position])
            if target != -100:
                nats -= float(logits[position - 1].log_softmax(-1)[target])
                tokens += 1
    return nats / tokens


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_it_is_the_mean_over_tokens(
    model: LlamaForCausalLM, examples: list[dict[str, torch.Tensor]], batch_size: int
) -> None:
    measured = measure_loss(
        TokenReader(model, "cpu"), examples, pad_token_id=0, batch_size=batch_size
    )
    assert measured.loss == pytest.approx(loss_by_hand(model, examples), abs=1e-6)
    assert measured.examples == len(examples)
    assert measured.tokens == sum(int((e["labels"][1:] != -100).sum()) for e in examples)


def test_a_conversation_is_measured_alike_beside_a_longer_one(
    examples: list[dict[str, torch.Tensor]],
) -> None:
    """With dynamic RoPE, whose frequencies follow the length to which a batch is padded."""
    torch.manual_seed(0)
    ropes = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=8, rope_parameters=ropes,
            initializer_range=0.5,
        )
    )  # fmt: skip
    alone, beside = (
        measure_loss(TokenReader(model, "cpu"), examples, pad_token_id=0, batch_size=size)
        for size in (1, 5)
    )
    assert alone.loss == pytest.approx(beside.loss, abs=1e-5)


def test_a_token_limit_keeps_the_first_examples(examples: list[dict[str, torch.Tensor]]) -> None:
    assert limit_tokens(examples, 50) == examples[:3]
    assert limit_tokens(examples, 1) == examples[:1]
    assert limit_tokens(examples, None) == examples
