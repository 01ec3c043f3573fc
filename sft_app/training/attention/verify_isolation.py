"""Verify, on the loaded model, that packed documents do not see each other.

Nothing in a configuration tells whether a family honours position_ids that restart: some ignore
them in silence, and then every document is trained on what its neighbours say. So we ask the model.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

DOCUMENT = 6
"""Tokens of each of the probe's documents."""
NUM_DOCUMENTS = 3
TOLERATED_SHARE = 1e-3
"""Of the effect that a token has inside its own document."""


@dataclass(frozen=True)
class IsolationCheck:
    """What changing one document moved."""

    isolated: bool
    leak: float
    """Largest change of a logit in documents whose tokens were not touched."""
    control: float
    """Largest change of a logit in the document whose first token was changed."""

    def sentence(self) -> str:
        """Say by how much, in logits."""
        verdict = "packed documents are isolated" if self.isolated else "packed documents leak"
        return (
            f"{verdict}: changing one document moved the others' logits by {self.leak:.1e}, "
            f"and its own by {self.control:.1e}"
        )


@torch.no_grad()
def verify_isolation(model: PreTrainedModel, called: nn.Module | None = None) -> IsolationCheck:
    """Put three short rows through `called`, which may wrap the model, in one forward.

    Row 0 is the reference; in row 1 the first document has other tokens; in row 2 only its first
    token is another, which shows how much a token can do where it may.
    """
    vocab_size = model.config.get_text_config(decoder=True).vocab_size
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    row = torch.randint(vocab_size, (DOCUMENT * NUM_DOCUMENTS,), generator=generator)
    rows = row.repeat(3, 1)
    rows[1, :DOCUMENT] = (rows[1, :DOCUMENT] + vocab_size // 2) % vocab_size
    rows[2, 0] = (rows[2, 0] + vocab_size // 2) % vocab_size
    positions = torch.arange(DOCUMENT).repeat(3, NUM_DOCUMENTS)

    was_training = model.training
    model.eval()  # dropout would drown the answer
    try:
        batch = {"input_ids": rows.to(device), "position_ids": positions.to(device)}
        logits = (called or model)(**batch).logits
    finally:
        model.train(was_training)
    reference, other_document, other_token = logits.float()
    leak = (other_document - reference)[DOCUMENT:].abs().max().item()
    control = (other_token - reference)[1:DOCUMENT].abs().max().item()
    rounding = 2 * torch.finfo(logits.dtype).eps * reference.abs().max().item()
    isolated = control > rounding and leak <= max(TOLERATED_SHARE * control, rounding)
    return IsolationCheck(isolated, leak, control)
