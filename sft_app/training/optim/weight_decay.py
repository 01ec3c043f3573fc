"""Which parameters trainer.weight_decay draws towards 0: matrices, in every family.

transformers leaves norms and biases out by their names, and some families call them otherwise
(`norm_f` of Mamba and Nemotron-H, `norm_ffn` of xLSTM). What is not a matrix scales, shifts or
keeps time for a channel: a norm's weight, a step size, an attention sink.
"""

from collections.abc import Iterable

from torch import nn

TABLES = ("A_log",)
"""Parameters that state spaces have for each channel and state; their authors do not decay them
(Gu and Dao 2023, arXiv:2312.00752)."""


def is_table(name: str) -> bool:
    """Tell numbers that stand in two dimensions and are no matrix."""
    return name.rpartition(".")[2] in TABLES


def matrices_of(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Return those of `names` that are matrices of the model, or stacks of them.

    transformers names what a module without a weight has in the place of one, too: None.
    """
    found = dict(model.named_parameters(remove_duplicate=False))
    return [n for n in names if n in found and found[n].ndim > 1 and not is_table(n)]
