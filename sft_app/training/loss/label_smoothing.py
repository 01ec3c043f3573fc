"""Label smoothing, the same for every way of wrapping or sharding a model.

The Trainer shifts smoothed labels only for class names that it knows, and sharding renames the
class; it also divides by what one micro-batch supervises. This loss shifts always, and divides by
the tokens of the whole optimizer step.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sft_app.data.labels import IGNORE_INDEX, shift_labels
from sft_app.training.loss.loss_of_logits import share_of_step


@dataclass(frozen=True)
class SmoothedLoss:
    """Cross-entropy in which each label gets 1 - epsilon, and all words share epsilon.

    (Szegedy et al. 2016, arXiv:1512.00567, section 7.) For transformers' `compute_loss_func`.
    A router's loss is added as without smoothing (loss_of_logits.py).
    """

    epsilon: float
    router_weight: float = 0.0
    """By what a router's loss is multiplied; 0: none is added."""

    def __call__(
        self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Return the sum over supervised labels [B, T], in nats, by `num_items_in_batch`.

        Unshifted labels; logits [B, T, V] in `outputs`, with `aux_loss` where a router's loss is
        added. None: divided by those of this call.
        """
        targets = shift_labels(labels).flatten()
        kept = targets != IGNORE_INDEX
        log_probabilities = outputs.logits.flatten(0, 1)[kept].float().log_softmax(-1)
        of_labels = -log_probabilities.gather(1, targets[kept].unsqueeze(1)).sum()
        of_all_words = -log_probabilities.mean(-1).sum()
        total = (1 - self.epsilon) * of_labels + self.epsilon * of_all_words
        share = share_of_step(targets, num_items_in_batch, None) if self.router_weight else 0.0
        if num_items_in_batch is None:
            num_items_in_batch = int(kept.sum())
        if isinstance(num_items_in_batch, Tensor):
            loss = total / num_items_in_batch.to(total.device).clamp(min=1)
        else:
            loss = total / max(num_items_in_batch, 1)
        return loss + self.router_weight * share * outputs.aux_loss if self.router_weight else loss
