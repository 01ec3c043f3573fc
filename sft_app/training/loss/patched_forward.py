"""A causal LM that returns its loss without ever having its logits.

Where the model's own forward makes [B, T, V] logits, ours stops at the hidden states, and sends
only the supervised ones through the head, in chunks. It takes the place of `forward` on the model
itself, beneath whatever wraps it (PEFT, DDP, FSDP), so that the Trainer notices nothing.
"""

import functools
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from sft_app.common.errors import ConfigError
from sft_app.config.schema.trainer import LossHead
from sft_app.data.labels import IGNORE_INDEX, shift_left
from sft_app.loader.model.logit_transform import LogitTransform, logit_transform
from sft_app.training.attention.known_batch import known_supervised, positions_of
from sft_app.training.attention.packed_forward import current_forward, packed_documents
from sft_app.training.loss.choose_loss import LossPlan
from sft_app.training.loss.chunked_cross_entropy import chunked_cross_entropy
from sft_app.training.loss.liger_cross_entropy import liger_cross_entropy
from sft_app.training.loss.loss_of_logits import (
    adds_router_loss,
    compare_own_loss,
    install_loss_of_logits,
)
from sft_app.training.loss.vocabulary_shard import VocabularyShard, vocabulary_shard
from sft_app.training.precision import compute_dtype

log = logging.getLogger(__name__)

NEEDS_OWN_FORWARD = frozenset(
    {"logits_to_keep", "return_dict", "output_hidden_states", "output_attentions"}
)
"""Arguments that ask for more than the loss, or for another one."""

CHUNKED = LossPlan(LossHead.chunked, "the default")
NAMES = {
    LossHead.chunked: "chunked linear cross-entropy",
    LossHead.liger: "liger-kernel's fused linear cross-entropy",
    LossHead.model: "the model's own",
}


@dataclass(frozen=True)
class LossChoice:
    """How the loss of the loaded model is computed."""

    head: LossHead
    reason: str
    of_logits: bool = False
    """The model gives logits, and the loss is computed from them here, not in the model."""

    @property
    def is_ours(self) -> bool:
        """Tell whether the loss is divided by the step's tokens, and takes tokens' weights."""
        return self.of_logits or self.head is not LossHead.model

    def __str__(self) -> str:
        """Say it in a line of the log."""
        name = "cross-entropy of the model's logits" if self.of_logits else NAMES[self.head]
        return f"loss            {name} ({self.reason})"


def install_chunked_loss(
    model: PreTrainedModel, plan: LossPlan = CHUNKED, *, called: nn.Module | None = None
) -> LossChoice:
    """Make `model(labels=...)` return `loss` and no logits, if that verifies as the same loss.

    Without labels (generation, scoring) forward stays as it was. The check is a tiny batch through
    both; where they differ, or the model is built otherwise, the loss is that of its logits, and
    the choice says why. `called` is what training calls, where that wraps the model. Raises
    ConfigError when liger was asked for and fails.
    """
    if plan.head is LossHead.model:
        said = compare_own_loss(model, called or model)
        if said.startswith("its own loss"):
            log.warning("trainer.loss_head=model: of this model, %s", said)
        return LossChoice(plan.head, plan.reason)
    obstacle = chunked_loss_obstacle(model)
    if obstacle is not None:
        return _loss_with_logits(plan, [obstacle], model, called or model)
    findings: list[str] = []
    for head in dict.fromkeys((plan.head, LossHead.chunked)):
        difference, finding = _try_head(model, called or model, head)
        if finding is None:
            name = type(model).__name__.removeprefix("FSDP")  # fully_shard makes a class of its own
            equal = f"equal to {name}'s own within {difference:.0e}"
            return LossChoice(head, "; ".join([equal, *findings]))
        findings.append(finding)
        if plan.asked_for and head is LossHead.liger:
            break
    return _loss_with_logits(plan, findings, model, called or model)


def _loss_with_logits(
    plan: LossPlan, findings: list[str], model: PreTrainedModel, called: nn.Module
) -> LossChoice:
    """Compute the loss from the model's logits; its own is the last resort, and warned of."""
    reason = "; ".join(findings)
    if plan.asked_for and plan.head is LossHead.liger:
        raise ConfigError(
            f"trainer.loss_head=liger cannot be used here: {reason}; set trainer.loss_head=auto."
        )
    try:
        said = install_loss_of_logits(model, called)
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        said = f"it could not be compared: {error}"
        log.warning("the loss is what %s computes, and %s", type(model).__name__, said)
        return LossChoice(LossHead.model, f"{reason}; {said}")
    return LossChoice(LossHead.model, f"{said}; {reason}", of_logits=True)


def _try_head(
    model: PreTrainedModel, called: nn.Module, head: LossHead
) -> tuple[float, str | None]:
    """Install it; return how far it is off, and what is wrong with it, where it is taken out."""
    own_head: Any = model.get_output_embeddings()
    if head is LossHead.liger and vocabulary_shard(own_head.weight) is not None:
        return math.inf, f"{NAMES[head]} needs the head whole, and tensor-parallel ranks share it"
    transform = logit_transform(model.config)
    before = current_forward(model)
    model.forward = MethodType(_chunked_forward(before, transform, head), model)
    try:
        difference = _relative_difference(model, called)
        finding = f"the loss of {NAMES[head]} differs by {difference:.0e}"
    except (TypeError, ValueError, AttributeError, RuntimeError, ImportError) as error:
        difference, finding = math.inf, f"{NAMES[head]} fails: {error}"
    if difference <= (1e-5 if compute_dtype(model) == torch.float32 else 2e-2):
        return difference, None
    model.forward = MethodType(before, model)
    return difference, finding


def chunked_loss_obstacle(model: PreTrainedModel) -> str | None:
    """Return what in the model's build rules it out; the model may be without memory."""
    head = model.get_output_embeddings()
    head = None if head is None else _linear_inside(head)
    if type(head) is not nn.Linear:
        return f"its head is no plain linear layer but {type(head).__name__}"
    if decoder_of(model) is model:
        return "it has no base model apart from its head"
    if adds_router_loss(model):
        return "a router's loss is added, in proportion to the micro-batch's tokens"
    return None


def _chunked_forward(
    own_forward: Callable[..., Any], transform: LogitTransform, loss_head: LossHead
) -> Callable[..., Any]:
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
        if labels is None:
            return own_forward(self, *args, **kwargs)
        # PEFT names every argument that its wrapper knows, most of them with None.
        kwargs = {name: value for name, value in kwargs.items() if value is not None}
        head = self.get_output_embeddings()
        linear = _linear_inside(head)
        plain_head = type(linear) is nn.Linear and not _belongs_to_other_batches(linear.weight)
        if args or NEEDS_OWN_FORWARD & kwargs.keys() or not plain_head:
            if loss_weights is not None:
                raise ValueError(
                    "loss_weights need the chunked cross-entropy, which cannot be used here"
                )
            if num_items_in_batch is not None:
                kwargs["num_items_in_batch"] = num_items_in_batch
            if shift_labels is not None:
                kwargs["shift_labels"] = shift_labels
            return own_forward(self, *args, labels=labels, **kwargs)
        positions, mask = kwargs.get("position_ids"), kwargs.get("attention_mask")
        with packed_documents(positions, mask, kwargs.get("past_key_values"), self.config):
            hidden = decoder_of(self)(**kwargs).last_hidden_state
        num_supervised = None
        if shift_labels is None:
            num_supervised = known_supervised(labels)
            shift_labels = shift_left(labels, IGNORE_INDEX)
            loss_weights = None if loss_weights is None else shift_left(loss_weights, 0)
        loss = supervised_loss(
            hidden,
            head,
            shift_labels,
            transform,
            num_items_in_batch,
            loss_weights,
            loss_head,
            num_supervised,
        )
        return CausalLMOutput(loss=loss)

    return forward


def decoder_of(model: PreTrainedModel) -> nn.Module:
    """Return the model without its head; the model itself where there is no telling."""
    decoder = model.base_model
    if decoder is model:  # Llama-4 calls it by another name than its prefix says
        inner = [child for child in model.children() if isinstance(child, PreTrainedModel)]
        decoder = inner[0] if len(inner) == 1 else model
    return decoder


def _linear_inside(head: nn.Module) -> nn.Module:
    """Return the layer itself, also where PEFT trains some rows of its weight (added tokens)."""
    return getattr(head, "original_module", head)


def _belongs_to_other_batches(weight: torch.Tensor) -> bool:
    """Tell FSDP's shards; those of tensor-parallel ranks, which have one batch, may be gathered."""
    if not isinstance(weight, DTensor):
        return False
    return "tp" not in (weight.device_mesh.mesh_dim_names or ())


def _own(parameter: Any, shard: VocabularyShard | None) -> Any:
    """Return this rank's words of the head's weight or bias; all of them without a shard."""
    if isinstance(parameter, DTensor):
        return parameter.full_tensor() if shard is None else parameter.to_local()
    if shard is None or parameter is None:
        return parameter
    return parameter[shard.start :][: shard.most_words]


def supervised_loss(
    hidden: torch.Tensor,
    head: nn.Module,
    shift_labels: torch.Tensor,
    transform: LogitTransform,
    num_items_in_batch: torch.Tensor | int | None = None,
    loss_weights: torch.Tensor | None = None,
    loss_head: LossHead = LossHead.chunked,
    num_supervised: int | None = None,
) -> torch.Tensor:
    """Return the cross-entropy of predicting shift_labels [B, T] from hidden [B, T, D], in nats.

    Labels and `loss_weights` [B, T], factors of the tokens' terms (chunked only), stand at the
    position that predicts. `num_items_in_batch`: supervised tokens over all micro-batches and
    ranks of the optimizer step, or its conversations, where the weights make those count the same:
    by which the sum is divided; None: tokens of this call. A batch without a supervised token costs
    nothing and teaches nothing: loss 0. `num_supervised`: how many labels are not IGNORE_INDEX,
    where the host knows it.
    """
    flat_labels = shift_labels.flatten()
    supervised = flat_labels != IGNORE_INDEX
    if num_supervised is None:
        kept = supervised.nonzero().flatten()  # a wait for the device
    else:
        kept = positions_of(supervised, num_supervised)
    weight: Any = head.weight  # of PEFT's wrapper: with the rows that it trains
    shard = vocabulary_shard(weight)
    weight, bias = (_own(p, shard) for p in (weight, _linear_inside(head).bias))
    rows, targets = hidden.flatten(0, 1).index_select(0, kept), flat_labels[kept]
    if loss_head is LossHead.liger and loss_weights is None and shard is None:
        total = liger_cross_entropy(rows, weight, targets, bias)
    else:
        total = chunked_cross_entropy(
            rows,
            weight,
            targets,
            bias=bias,
            token_weights=None if loss_weights is None else loss_weights.flatten()[kept],
            transform=transform,
            shard=shard,
        )
    if num_items_in_batch is None:
        num_items_in_batch = len(kept)
    if isinstance(num_items_in_batch, torch.Tensor):
        number = num_items_in_batch.to(total.device)
        return total / torch.where(number > 0, number, 1)
    return total / (num_items_in_batch or 1)


@torch.no_grad()
def _relative_difference(model: PreTrainedModel, called: nn.Module) -> float:
    """Compare our loss with the model's own, on a tiny batch with some labels ignored."""
    vocab_size = model.config.get_text_config(decoder=True).vocab_size
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(vocab_size, (2, 12), generator=generator).to(model.device)
    labels = tokens.clone()
    labels[:, :4] = IGNORE_INDEX
    batch = {"input_ids": tokens, "labels": labels, "num_items_in_batch": 16}
    was_training = model.training
    model.eval()
    try:
        ours = called(**batch).loss.item()
        own = called(**batch, return_dict=True).loss.item()  # which needs the own forward
    finally:
        model.train(was_training)
    return abs(ours - own) / abs(own)
