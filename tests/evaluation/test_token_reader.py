"""Losses of single tokens from hidden states: those of the model's own logits, for every family."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from sft_app.evaluation.token_reader import TokenReader
from tests.training.random_models import build_random_model

FAMILIES = ["llama", "gpt2", "opt", "gemma2", "cohere2", "granite", "mamba2", "gpt_neox", "phi3",
            "mixtral"]  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_hits_are_those_of_the_models_own_logits(family: str) -> None:
    model = build_random_model(family)
    rows = torch.randint(3, 97, (2, 20), generator=torch.Generator().manual_seed(1))
    rows[:, 7] = 5
    with torch.no_grad():
        logits = model(rows).logits[:, :-1].double().log_softmax(-1)
    expected = -logits.gather(2, rows[:, 1:, None])[..., 0]
    reader = TokenReader(model, "cpu")
    assert reader.losses(rows).double() == pytest.approx(expected, abs=2e-5)
    assert torch.equal(reader.hits(rows) > 0, logits.argmax(-1) == rows[:, 1:])
    wanted = torch.zeros(2, 19, dtype=torch.bool)
    wanted[1, 3:5] = True
    some = reader.losses(rows, wanted)
    assert some[wanted].double() == pytest.approx(expected[wanted], abs=2e-5)
    assert not some[~wanted].any()


@pytest.mark.parametrize("length", [64, 96])
def test_dynamic_rope_reads_a_row_alike_whatever_was_read_before(
    tiny_model: Path, length: int
) -> None:
    """The frequencies of a longer row are forgotten, at the original context and beyond it."""
    ropes = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    model = AutoModelForCausalLM.from_pretrained(tiny_model, rope_parameters=ropes)
    row, longer = torch.randint(0, 256, (1, length)), torch.randint(0, 256, (1, 256))
    reader = TokenReader(model, "cpu")
    alone = reader.losses(row)
    reader.losses(longer)
    assert torch.equal(reader.losses(row), alone)


def test_whole_logits_are_never_made(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_random_model("llama")
    reader = TokenReader(model, "cpu")
    sizes = []
    model.lm_head.register_forward_hook(lambda _, __, logits: sizes.append(logits.shape[2]))
    reader.losses(torch.randint(3, 97, (1, 64)))
    assert sizes == [1]


def test_a_head_that_is_not_what_it_seems_is_found_out() -> None:
    """Logits that the family does not tell of: the model's own are taken."""
    model = build_random_model("llama")
    own = model.forward
    model.forward = lambda *a, **k: scaled(own(*a, **k))
    rows = torch.randint(3, 97, (1, 20))
    reader = TokenReader(model, "cpu")
    assert reader.takes_whole_logits
    with torch.no_grad():
        logits = model(rows).logits[0, :-1].log_softmax(-1)
    expected = -logits.gather(1, rows[0, 1:, None])[:, 0]
    assert reader.losses(rows)[0] == pytest.approx(expected, abs=1e-5)


def scaled(output: object) -> object:
    output.logits = output.logits * 3  # type: ignore[attr-defined]
    return output
