"""Which text a loss was measured on, as a digest that results carry."""

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

DIGITS = 16
"""In hexadecimal: enough to tell texts apart."""


def text_digest(rows: Iterable[Tensor]) -> str:
    """Return a digest of rows of token ids or labels, whatever their dtype; order counts."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(len(row).to_bytes(8, "little"))
        digest.update(torch.as_tensor(row).to(torch.int64).cpu().numpy().tobytes())
    return digest.hexdigest()[:DIGITS]
