"""Smoothed labels are shifted, and divided by the step's tokens, however the model is wrapped."""

import pytest
import torch
from torch.nn import functional as F
from transformers.modeling_outputs import CausalLMOutput

from sft_app.training.loss.label_smoothing import SmoothedLoss
from tests.training.training_steps import losses_of, packed_rows, prepared, trainer_of


def test_it_is_torchs_own_on_shifted_labels() -> None:
    logits = torch.randn(2, 9, 31)
    labels = torch.randint(31, (2, 9))
    labels[0, :4] = -100
    expected = F.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), label_smoothing=0.2, reduction="sum"
    )
    found = SmoothedLoss(0.2)(CausalLMOutput(logits=logits), labels, 40)
    torch.testing.assert_close(found, expected / 40)


@pytest.mark.parametrize("renamed", [False, True], ids=["its own class", "as FSDP renames it"])
def test_the_trainer_uses_it_whatever_the_class_is_called(
    random_model, tmp_path, renamed: bool
) -> None:
    losses = []
    for batch, accumulation in ((2, 1), (1, 2)):
        model = random_model("llama")
        if renamed:
            model.__class__ = type("FSDPLlamaForCausalLM", (type(model),), {})
        trainer = trainer_of(
            prepared(model),
            tmp_path,
            packed_rows(2),
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            label_smoothing_factor=0.1,
        )
        trainer.train()
        losses += losses_of(trainer)
    rows = [{name: value.unsqueeze(0) for name, value in row.items()} for row in packed_rows(2)]
    model = random_model("llama")
    total = count = 0.0
    for row in rows:
        logits = model(input_ids=row["input_ids"], position_ids=row["position_ids"]).logits
        labels = row["labels"][:, 1:].flatten()
        flat = logits[:, :-1].flatten(0, 1)
        total += F.cross_entropy(flat, labels, label_smoothing=0.1, reduction="sum").item()
        count += int((labels != -100).sum())
    assert losses == pytest.approx([total / count] * 2, rel=1e-4)


@pytest.mark.parametrize(("batch", "accumulation"), [(2, 1), (1, 2)])
def test_a_router_loss_is_added_as_without_smoothing(
    random_model, tmp_path, batch: int, accumulation: int
) -> None:
    """Next to nothing is smoothed, so that the two are equal."""
    losses = []
    for smoothing in (0.0, 1e-9):
        model = random_model("mixtral", output_router_logits=True, router_aux_loss_coef=5.0)
        trainer = trainer_of(
            prepared(model),
            tmp_path,
            packed_rows(2),
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            label_smoothing_factor=smoothing,
        )
        trainer.train()
        losses += losses_of(trainer)
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[0] > 10, "most of it is the router's"
