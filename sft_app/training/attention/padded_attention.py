"""Which attention a model trains with where rows are not packed: one that its padding leaves alone.

Every implementation is given what it may not expect there: a family's own code can take a mask
that it was never run with, or count positions from the padding. So the model is asked, as it is
about packed documents: rows of two lengths in one batch, and each of them alone.
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sft_app.common.errors import ConfigError
from sft_app.compat import model_internals
from sft_app.data.batches.collators import CollateExamples
from sft_app.training.attention.choose_attention import (
    KERNELS_FAIL_WITH,
    AttentionChoice,
    AttentionPlan,
    difference_from_eager,
    difference_tolerated,
    relative_difference,
    use_attention,
)
from sft_app.training.attention.verify_isolation import LENGTHS, probing

ROW_LENGTHS = (sum(LENGTHS), 11)
"""Tokens of the probe's rows: both more than a shortened window, the second padded."""


class PaddingChangesRows(ConfigError):
    """No attention of the model takes rows of different lengths in one batch."""

    def __init__(self, model_class: str, findings: str, asked_for: bool) -> None:
        """Say which model, and what was tried."""
        way_out = "set model.attn_implementation=auto" if asked_for else "choose another model"
        super().__init__(
            f"{model_class} cannot train on batches of rows that are padded to the longest, as "
            f"they are where documents are not packed. Tried {findings}. {way_out}, or another "
            "version of transformers."
        )


def verify_padded(
    model: PreTrainedModel, called: nn.Module, plan: AttentionPlan
) -> AttentionChoice:
    """Verify on the loaded model that padding changes no row; fall back until it does not.

    `called` is what training calls, where that wraps the model, which is as training will call it
    (use_cache off). Returns what is to be used; raises PaddingChangesRows where nothing is right,
    or the one asked for is not.
    """
    fallbacks = () if plan.asked_for else ("sdpa", "eager")
    if not model_internals.can_set_attention(type(model)):
        fallbacks = ()
    findings: list[str] = []
    for name in dict.fromkeys((plan.name, *fallbacks)):
        finding = _finding(model, called, name)
        if finding is None:
            return AttentionChoice(name, "; ".join([plan.reason, *findings]))
        findings.append(f"{name}: {finding}")
    raise PaddingChangesRows(type(model).__name__, "; ".join(findings), plan.asked_for)


def _finding(model: PreTrainedModel, called: nn.Module, name: str) -> str | None:
    """Return what is wrong with padded rows under `name`; None: nothing."""
    try:
        finding = difference_from_eager(model, called, name)
        if finding is not None:
            return finding
        use_attention(model, name)
        difference = padding_difference(model, called)
    except torch.OutOfMemoryError:
        raise
    except KERNELS_FAIL_WITH as error:
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    if difference <= difference_tolerated(model):
        return None
    return f"padding changes what a row's tokens get by {difference:.0e}"


@torch.no_grad()
def padding_difference(model: PreTrainedModel, called: nn.Module) -> float:
    """Return how much padding changes the logits of a row's own tokens, relative to their norm.

    Of rows of different lengths in one batch, against each of them alone, with short windows and
    without dropout.
    """
    vocab_size = model.config.get_text_config(decoder=True).vocab_size
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(vocab_size, (length,), generator=generator) for length in ROW_LENGTHS]
    worst = 0.0
    # Which of two equal scores is chosen depends on a row's length, padding included.
    with probing(model, selecting=False):
        together = _logits(called, rows, device)
        for index, row in enumerate(rows):
            alone = _logits(called, [row], device)[0]
            difference = relative_difference(model, together[index, : len(row)], alone)
            worst = max(worst, difference)
    return worst


def _logits(called: nn.Module, rows: list[Tensor], device: torch.device) -> Tensor:
    """Return logits [B, T, V] of rows as CollateExamples hands them to training."""
    items = [
        {"input_ids": row, "labels": row, "position_ids": torch.arange(len(row))} for row in rows
    ]
    batch = CollateExamples(pad_token_id=0)(items)
    del batch["labels"]
    logits: Tensor = called(**{name: tensor.to(device) for name, tensor in batch.items()}).logits
    return logits.float()
