"""The next-token cross-entropy of a model whose logits cannot be done without.

A family's own loss is not always that: CPM-Ant's predicts the token that it sees, others take the
mean of a micro-batch, whatever the step's number of tokens. From the logits it is the same for all.

A router's loss is added, which keeps a mixture's experts busy (Fedus et al. 2021,
arXiv:2101.03961, equations 4 to 6). It is that of a micro-batch, and weighs what the micro-batch
does of the step: were it added as it is, each micro-batch and each rank would add a whole one.
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
from sft_app.training.attention.known_batch import known_supervised, positions_of
from sft_app.training.attention.packed_forward import current_forward
from sft_app.training.precision import compute_dtype
from sft_app.training.tiny_batch import tiny_batch

ROUTER_WEIGHTS = ("router_aux_loss_coef", "aux_loss_coef")
"""Names of what a router's loss is multiplied by, in models and configurations."""


def adds_router_loss(model: PreTrainedModel) -> bool:
    """Tell whether the checkpoint's configuration asks for it (`output_router_logits`)."""
    configs = (model.config, model.config.get_text_config(decoder=True))
    return any(getattr(config, "output_router_logits", False) for config in configs)


def router_loss_weight(model: PreTrainedModel) -> float:
    """Return by what its router's loss is multiplied; 0 where none is added."""
    if not adds_router_loss(model):
        return 0.0
    for holder in (model, model.config, model.config.get_text_config(decoder=True)):
        for name in ROUTER_WEIGHTS:
            weight = getattr(holder, name, None)
            if weight is not None:
                return float(weight)
    raise AttributeError(f"{type(model).__name__} does not say what its router's loss weighs")


def install_loss_of_logits(model: PreTrainedModel, called: nn.Module) -> str:
    """Make `model(labels=...)` return the loss of its logits; say in words how its own differs.

    `called` is what training calls, where that wraps the model. Raises AttributeError where a
    router's loss is added with a weight that cannot be found.
    """
    said = compare_own_loss(model, called)
    weight = router_loss_weight(model)
    model.forward = MethodType(_forward(current_forward(model), weight), model)
    return said


@torch.no_grad()
def compare_own_loss(model: PreTrainedModel, called: nn.Module) -> str:
    """Say how the family's own loss compares with the next-token cross-entropy of its logits."""
    batch = tiny_batch(model)
    weight = router_loss_weight(model)
    was_training = model.training
    model.eval()
    try:
        output = called(**batch)
        if output.loss is None:
            return "it has no loss of its own"
        own = float(output.loss)
        ours = float(next_token_loss(output.logits, shift_left(batch["labels"], IGNORE_INDEX)))
        if weight:
            ours += weight * float(output.aux_loss)
    finally:
        model.train(was_training)
    difference = abs(ours - own) / abs(own)
    if difference <= (1e-4 if compute_dtype(model) == torch.float32 else 2e-2):
        return f"equal to its own within {difference:.0e}"
    return f"its own loss, {own:.3f} where this is {ours:.3f}, is not the next-token cross-entropy"


def _forward(own_forward: Callable[..., Any], router_weight: float) -> Callable[..., Any]:
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
        known = None
        if shift_labels is None:
            assert labels is not None
            known = known_supervised(labels)
            shift_labels = shift_left(labels, IGNORE_INDEX)
            loss_weights = None if loss_weights is None else shift_left(loss_weights, 0)
        logits = output.logits
        loss = next_token_loss(logits, shift_labels, num_items_in_batch, loss_weights, known)
        if router_weight:
            share = share_of_step(shift_labels, num_items_in_batch, loss_weights)
            loss = loss + router_weight * share * output.aux_loss
        return CausalLMOutput(loss=loss, logits=logits)

    return forward


def next_token_loss(
    logits: torch.Tensor,
    shift_labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
    loss_weights: torch.Tensor | None = None,
    num_supervised: int | None = None,
) -> torch.Tensor:
    """Return the cross-entropy of logits [B, T, V] for shift_labels [B, T], in nats, in float32.

    The sum over supervised tokens, times `loss_weights` [B, T] where given, divided by
    `num_items_in_batch`; None: by the supervised tokens of this call. Without one it is 0.
    `num_supervised`: how many labels are not IGNORE_INDEX, where the host knows it.
    """
    flat = shift_labels.flatten().to(logits.device)
    supervised = flat != IGNORE_INDEX
    if num_supervised is None:
        kept = supervised.nonzero().flatten()  # a wait for the device
    else:
        kept = positions_of(supervised, num_supervised)
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


def share_of_step(
    shift_labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None,
    loss_weights: torch.Tensor | None,
) -> torch.Tensor | float:
    """Return what part of the step's items a micro-batch [B, T] has; 1 where that is not told."""
    if num_items_in_batch is None:
        return 1.0
    supervised = shift_labels != IGNORE_INDEX
    mine = supervised.sum() if loss_weights is None else (loss_weights * supervised).sum()
    if isinstance(num_items_in_batch, torch.Tensor):
        num_items_in_batch = num_items_in_batch.to(mine.device).clamp(min=1)
        return mine / num_items_in_batch
    return mine / max(1, num_items_in_batch)
