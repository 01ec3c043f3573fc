"""Loss by position and LongPPL: worked out by hand, from losses and from a real forward."""

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from sft_app.evaluation.language.by_position import loss_by_position
from sft_app.evaluation.language.longppl import long_perplexity, short_losses
from sft_app.evaluation.token_reader import TokenReader


def test_positions_are_cut_into_bins_that_hold_every_token_once() -> None:
    losses = torch.arange(1, 128, dtype=torch.float32).expand(2, -1)  # the loss is the position
    found = loss_by_position(losses)
    assert len(found) == 32
    assert list(found)[-1] == "128"
    assert found["4"] == pytest.approx((1 + 2 + 3) / 3)
    assert found["8"] == pytest.approx((4 + 5 + 6 + 7) / 4)


def test_key_tokens_gain_two_nats_and_are_likely() -> None:
    full = torch.tensor([[0.5, 1.9, 2.1, 0.1, 0.3]])
    short = torch.tensor([[2.6, 3.8, 9.0, 5.0, math.nan]])
    # Gains 2.1 and 4.9 count; 1.9 is too little; 6.9 leaves too high a loss; NaN is no key token.
    assert long_perplexity(full, short) == pytest.approx(math.exp((0.5 + 0.1) / 2))
    assert long_perplexity(full, full) is None


def test_the_short_context_is_a_quarter_of_the_length(tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    document = torch.randint(0, 256, (64,))
    found = short_losses(TokenReader(model, "cpu"), [document], 64)[0]
    with torch.no_grad():
        logits = model(document[None, 20:36]).logits[0].log_softmax(-1)
    # Of the window of 16 tokens from 20 on, the last four count: tokens 32 to 35.
    for place in range(32, 36):
        expected = -logits[place - 20 - 1, document[place]].item()
        assert found[place - 1].item() == pytest.approx(expected, abs=1e-5)
    assert torch.isnan(found[:11]).all() and not torch.isnan(found[11:]).any()
