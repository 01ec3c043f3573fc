"""The next-token cross-entropy of a model whose logits cannot be done without.

A family's own loss is not always that: CPM-Ant's predicts the token that it sees, others take the
mean of a micro-batch, whatever the step's number of tokens. From the logits it is the same for all.
"""

import functools
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from sft_app.data.labels import IGNORE_INDEX, shift_left
from sft_app.training.attention.packed_forward import current_forward
from sft_app.training.precision import compute_dtype


def install_loss_of_logits(model: PreTrainedModel, called: nn.Module) -> str:
    """Make `model(labels=...)` return the loss of its logits; say in words how its own differs.

    `called` is what training calls, where that wraps the model.
    """
    said = compare_own_loss(model, called)
    model.forward = MethodType(_forward(current_forward(model)), model)
    return said


@torch.no_grad()
def compare_own_loss(model: PreTrainedModel, called: nn.Module) -> str:
    """Say how the family's own loss compares with the next-token cross-entropy of its logits."""
    batch = _tiny_batch(model)
    was_training = model.training
    model.eval()
    try:
        output = called(**batch)
        if output.loss is None:
            return "it has no loss of its own"
        own = float(output.loss)
        ours = float(next_token_loss(output.logits, shift_left(batch["labels"], IGNORE_INDEX)))
    finally:
        model.train(was_training)
    difference = abs(ours - own) / abs(own)
    if difference <= (1e-4 if compute_dtype(model) == torch.float32 else 2e-2):
        return f"equal to its own within {difference:.0e}"
    return f"its own loss, {own:.3f} where this is {ours:.3f}, is not the next-token cross-entropy"


def _forward(own_forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return a forward without the model in its closure: a deep copy must not call the original."""

    @functools.wraps(own_forward)  # the Trainer reads the signature
    def forward(
        self: PreTrainedModel,
        *args: Any,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        loss_weights: torch.Tensor | None = None,
        shift_labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        output = own_forward(self, *args, **kwargs)
        if labels is None and shift_labels is None:
            return output
        if shift_labels is None:
            assert labels is not None
            shift_labels = shift_left(labels, IGNORE_INDEX)
            loss_weights = None if loss_weights is None else shift_left(loss_weights, 0)
        logits = output.logits
        loss = next_token_loss(logits, shift_labels, num_items_in_batch, loss_weights)
        return CausalLMOutput(loss=loss, logits=logits)

    return forward


def next_token_loss(
    logits: torch.Tensor,
    shift_labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
    loss_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the cross-entropy of logits [B, T, V] for shift_labels [B, T], in nats, in float32.

    The sum over supervised tokens, times `loss_weights` [B, T] where given, divided by
    `num_items_in_batch`; None: by the supervised tokens of this call. Without one it is 0.
    """
    flat = shift_labels.flatten().to(logits.device)
    kept = (flat != IGNORE_INDEX).nonzero().flatten()
    rows = logits.flatten(0, 1).index_select(0, kept).float()
    each = cross_entropy(rows, flat[kept], reduction="none")
    if loss_weights is not None:
        each = each * loss_weights.flatten().to(logits.device)[kept]
    total = each.sum()
    if num_items_in_batch is None:
        num_items_in_batch = len(kept)
    if isinstance(num_items_in_batch, torch.Tensor):
        number = num_items_in_batch.to(total.device)
        return total / torch.where(number > 0, number, 1)
    return total / (num_items_in_batch or 1)


def _tiny_batch(model: PreTrainedModel) -> dict[str, Any]:
    vocab_size = model.config.get_text_config(decoder=True).vocab_size
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(vocab_size, (2, 12), generator=generator).to(model.device)
    labels = tokens.clone()
    labels[:, :4] = IGNORE_INDEX
    return {"input_ids": tokens, "labels": labels}
