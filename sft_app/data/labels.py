"""Labels of a causal language model: which positions are supervised, and by which token."""

from torch import Tensor
from torch.nn import functional as F

IGNORE_INDEX = -100
"""The label of a position that is not supervised, as `torch.nn.CrossEntropyLoss` has it."""


def shift_left(values: Tensor, fill: float) -> Tensor:
    """Move values of tokens [B, T] to the position before, which predicts the token.

    The last position of each row predicts nothing, and gets `fill`.
    """
    return F.pad(values[:, 1:], (0, 1), value=fill)


def shift_labels(labels: Tensor) -> Tensor:
    """Return, for each position of labels [B, T], the label of the token that it predicts."""
    return shift_left(labels, IGNORE_INDEX)


def count_supervised(labels: Tensor) -> int:
    """Count the tokens of unshifted labels [B, T] that some position predicts and is judged by.

    The first token of a row has no position before it, and never counts.
    """
    return int((labels[:, 1:] != IGNORE_INDEX).sum())
