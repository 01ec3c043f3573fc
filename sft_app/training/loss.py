"""A causal LM that returns its loss without ever having its logits.

Where the model's own forward makes [B, T, V] logits, ours stops at the hidden states, and sends
only the supervised ones through the head, in chunks. It takes the place of `forward` on the model
itself, beneath whatever wraps it (PEFT, DDP, FSDP), so that the Trainer notices nothing.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from sft_app.training.loss_head import LogitTransform, chunked_cross_entropy

IGNORED = -100
"""Label of a position that is not supervised, as everywhere in PyTorch."""
NEEDS_OWN_FORWARD = frozenset(
    {"logits_to_keep", "return_dict", "output_hidden_states", "output_attentions"}
)
"""Arguments that ask for more than the loss, or for another one."""


@dataclass(frozen=True)
class LossChoice:
    chunked: bool
    reason: str

    def __str__(self) -> str:
        name = "chunked head" if self.chunked else "the model's own"
        return f"loss            {name} ({self.reason})"


def install_chunked_loss(model: PreTrainedModel) -> LossChoice:
    """Make `model(labels=...)` return `loss` and no logits, if that is provably the same loss.

    Without labels (generation, scoring) forward stays as it was. The proof is a tiny batch through
    both; where they differ, or the model is built otherwise, it keeps its own loss, and the choice
    says why. Call it on the loaded model, before it is wrapped.
    """
    obstacle = chunked_loss_obstacle(model)
    if obstacle is None:
        transform = logit_transform(model)
        model.forward = MethodType(_chunked_forward(type(model).forward, transform), model)
        try:
            difference = _relative_difference(model)
        except (TypeError, ValueError, AttributeError, RuntimeError) as error:
            difference, obstacle = math.inf, f"the chunked head fails: {error}"
        tolerance = 1e-5 if model.dtype == torch.float32 else 2e-2
        if difference <= tolerance:
            equal = f"equal to {type(model).__name__}'s own within {difference:.0e}"
            return LossChoice(True, equal)
        del model.forward
        obstacle = obstacle or f"the chunked head's loss differs by {difference:.0e}"
    return LossChoice(False, obstacle)


def logit_transform(model: PreTrainedModel) -> LogitTransform:
    """Scaling and soft-capping of the logits, from the names that families give them."""
    config = model.config.get_text_config(decoder=True)
    scale = 1.0
    for name in ("logit_scale", "lm_head_multiplier"):  # Cohere, Falcon-H1
        scale *= getattr(config, name, None) or 1.0
    scale /= getattr(config, "logits_scaling", None) or 1.0  # Granite
    return LogitTransform(scale, getattr(config, "final_logit_softcapping", None))  # Gemma


def chunked_loss_obstacle(model: PreTrainedModel) -> str | None:
    """What in the model's build speaks against the chunked head; it may be without memory."""
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear:
        return f"its head is no plain linear layer but {type(head).__name__}"
    if model.base_model is model:
        return "it has no base model apart from its head"
    if getattr(model.config, "output_router_logits", False):
        return "it adds a router loss"
    return None


def _chunked_forward(
    own_forward: Callable[..., Any], transform: LogitTransform
) -> Callable[..., Any]:
    """The model is not in the closure: a deep copy of it must not call the original."""

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
        if labels is None:
            return own_forward(self, *args, **kwargs)
        head = self.get_output_embeddings()
        linear = _linear_inside(head)
        plain_head = type(linear) is nn.Linear and not _belongs_to_other_batches(linear.weight)
        if args or NEEDS_OWN_FORWARD & kwargs.keys() or not plain_head:
            if loss_weights is not None:
                raise ValueError("loss_weights need the chunked head, which cannot be used here")
            if num_items_in_batch is not None:
                kwargs["num_items_in_batch"] = num_items_in_batch
            if shift_labels is not None:
                kwargs["shift_labels"] = shift_labels
            return own_forward(self, *args, labels=labels, **kwargs)
        hidden = self.base_model(**kwargs).last_hidden_state
        if shift_labels is None:
            shift_labels = shifted(labels, IGNORED)
            loss_weights = None if loss_weights is None else shifted(loss_weights, 0)
        loss = supervised_loss(
            hidden, head, shift_labels, transform, num_items_in_batch, loss_weights
        )
        return CausalLMOutput(loss=loss)

    return forward


def _linear_inside(head: nn.Module) -> nn.Module:
    """The layer itself, also where PEFT trains some rows of its weight (those of added tokens)."""
    return getattr(head, "original_module", head)


def _belongs_to_other_batches(weight: torch.Tensor) -> bool:
    """A shard of FSDP's; those of tensor parallel ranks, which have one batch, may be gathered."""
    if not isinstance(weight, DTensor):
        return False
    return "tp" not in (weight.device_mesh.mesh_dim_names or ())


def _whole(parameter: Any) -> Any:
    return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter


def shifted(values: torch.Tensor, fill: int) -> torch.Tensor:
    """Values of tokens [B, T], each moved to the position before, which predicts its token."""
    return F.pad(values[:, 1:], (0, 1), value=fill)


def supervised_loss(
    hidden: torch.Tensor,
    head: nn.Module,
    shift_labels: torch.Tensor,
    transform: LogitTransform,
    num_items_in_batch: torch.Tensor | int | None = None,
    loss_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cross-entropy of predicting shift_labels [B, T] from hidden [B, T, D], in nats.

    Labels and `loss_weights` [B, T], factors of the tokens' terms, stand at the position that
    predicts. `num_items_in_batch`: supervised tokens over all micro-batches and ranks of the
    optimizer step, by which the sum is divided; None: those of this call. A batch without a
    supervised token costs nothing and teaches nothing: loss 0.
    """
    flat_labels = shift_labels.flatten()
    kept = (flat_labels != IGNORED).nonzero().flatten()  # the one wait for the device
    weight = _whole(head.weight)  # of PEFT's wrapper: with the rows that it trains
    bias = _whole(_linear_inside(head).bias)
    total = chunked_cross_entropy(
        hidden.flatten(0, 1).index_select(0, kept),
        weight,
        flat_labels[kept],
        bias=bias,
        token_weights=None if loss_weights is None else loss_weights.flatten()[kept],
        transform=transform,
    )
    if num_items_in_batch is None:
        num_items_in_batch = len(kept)
    if isinstance(num_items_in_batch, torch.Tensor):
        return total / num_items_in_batch.to(total.device).clamp(min=1)
    return total / max(num_items_in_batch, 1)


@torch.no_grad()
def _relative_difference(model: PreTrainedModel) -> float:
    """Between the chunked and the model's own loss of a tiny batch with some labels ignored."""
    vocab_size = model.config.get_text_config(decoder=True).vocab_size
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(vocab_size, (2, 12), generator=generator).to(model.device)
    labels = tokens.clone()
    labels[:, :4] = IGNORED
    batch = {"input_ids": tokens, "labels": labels, "num_items_in_batch": 16}
    was_training = model.training
    model.eval()
    try:
        ours = model(**batch).loss.item()
        own = type(model).forward(model, **batch).loss.item()
    finally:
        model.train(was_training)
    return abs(ours - own) / abs(own)
