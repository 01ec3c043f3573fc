"""Batches of padded rows train each row as it would be alone, by an attention that is asked."""

import pytest
import torch
from torch import nn

from sft_app.config.schema.data import Packing
from sft_app.config.schema.model import PaddingSide
from sft_app.training.attention.choose_attention import AttentionPlan, choose_attention
from sft_app.training.attention.padded_attention import (
    PaddingChangesRows,
    padding_difference,
    verify_padded,
)
from sft_app.training.packing_plan import plan_packing
from sft_app.training.prepare_model import settle_attention

AUTO = plan_packing(Packing.auto, PaddingSide.right)
NONE = plan_packing(Packing.none, PaddingSide.right)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mixtral", "bloom", "mamba2"])
def test_padding_changes_nothing_and_the_plan_stays(random_model, family):
    model = random_model(family)
    plan = choose_attention(model.config, "cpu", "auto")
    assert verify_padded(model, model, plan).name == plan.name
    assert padding_difference(model, model) < 1e-5


@pytest.mark.parametrize(
    ("family", "name", "why"),
    [
        ("deepseek_v32", "sdpa", "sft_packed: "),
        ("deepseek_v4", "eager", "sdpa: DeepseekV4ForCausalLM does not support"),
        ("doge", "sdpa", "'Documents' object has no attribute 'dtype'"),
    ],
)
def test_what_a_family_cannot_take_is_replaced_and_said(small_family, family, name, why):
    """Their own code takes the mask apart, which ours is not; rows are not packed either."""
    model = small_family(family)
    plan = choose_attention(model.config, "cpu", "auto")
    _, choice = settle_attention(model, model, NONE, plan)
    assert choice.name == name
    assert why in choice.reason
    assert padding_difference(model, model) < 1e-5


def test_a_family_that_cannot_pack_is_asked_about_padding(small_family):
    packing, choice = settle_attention(
        (model := small_family("deepseek_v4")),
        model,
        AUTO,
        choose_attention(model.config, "cpu", "auto"),
    )
    assert (packing.packed, choice.name) == (False, "eager")


def test_rows_that_padding_changes_are_refused(small_family):
    """CPM-Ant's positions are counted from the row's end, where the padding is."""
    model = small_family("cpmant")
    plan = choose_attention(model.config, "cpu", "auto")
    with pytest.raises(
        PaddingChangesRows, match=r"^CpmAntForCausalLM cannot train on .* choose another model"
    ):
        settle_attention(model, model, NONE, plan)


def test_an_attention_that_was_asked_for_is_refused_and_not_replaced(small_family):
    model = small_family("doge")
    with pytest.raises(PaddingChangesRows, match=r"Tried sft_packed: .*attn_implementation=auto"):
        verify_padded(model, model, AttentionPlan("sft_packed", "asked for", asked_for=True))


def test_a_wrapper_that_reads_the_padding_is_found_out(random_model):
    """The probe goes through what training calls."""

    class MeanOfTheRow(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, **batch):
            output = self.model(**batch)
            output.logits = output.logits + output.logits.mean(1, keepdim=True)
            return output

    model = random_model("llama")
    assert padding_difference(model, MeanOfTheRow(model)) > 1e-2


def test_logits_that_are_not_finite_are_a_difference(random_model):
    model = random_model("llama")
    with torch.no_grad():
        model.model.embed_tokens.weight.fill_(float("nan"))
    assert padding_difference(model, model) == float("inf")
