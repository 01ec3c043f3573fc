"""Loss by position and LongPPL: worked out by hand, from losses and from a real forward."""

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from sft_app.evaluation.language.by_position import loss_by_position
from sft_app.evaluation.language.long_documents import LongDocuments
from sft_app.evaluation.language.longppl import long_perplexity, measure_longppl, short_losses
from sft_app.evaluation.token_reader import TokenReader
from tests.evaluation.induction_model import induction_model


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


@pytest.mark.parametrize("length", [64, 67])
def test_the_short_context_is_a_quarter_of_the_length(tiny_model: Path, length: int) -> None:
    """As the authors' find_key_token: 16 tokens before the first of four, up to the very end."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    documents = list(torch.randint(0, 256, (2, length)))
    found = short_losses(TokenReader(model, "cpu"), documents, length)
    assert torch.isnan(found[:, :15]).all()
    for document, losses in zip(documents, found, strict=True):
        for place in range(16, length):
            start = (place - 16) // 4 * 4
            with torch.no_grad():
                logits = model(document[None, start:place]).logits[0, -1].log_softmax(-1)
            expected = -logits[document[place]].item()
            assert losses[place - 1].item() == pytest.approx(expected, abs=1e-5)


def test_longppl_of_a_model_that_copies_is_that_of_the_copied_tokens() -> None:
    """By hand: a random text and its repetition, further apart than the short context.

    The copying model gives what follows four known tokens the logit 9 among 128 words, and after
    others word 0, so that it is as good as sure of a repeated token, and sure of the wrong one
    elsewhere. With a quarter of the text it never sees the first copy.
    """
    text = torch.randperm(127, generator=torch.Generator().manual_seed(0))[:64] + 1
    document = torch.cat([text, text])
    reader = TokenReader(induction_model(128), "cpu")
    long = LongDocuments(lengths=(128,), documents=(document,))
    sure = math.log(1 + 127 * math.exp(-9.0))
    assert measure_longppl(reader, long) == {"128": pytest.approx(math.exp(sure), rel=1e-5)}
    apart = LongDocuments(lengths=(128,), documents=(torch.randperm(128),))
    assert measure_longppl(reader, apart) == {"128": None}
