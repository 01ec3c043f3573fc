"""Whether MLPs are computed in tiles of the sequence, decided before weights are loaded."""

from dataclasses import dataclass

import torch

TILE_TOKENS_CPU = 512
TILE_TOKENS_CUDA = 4096
"""Positions of one tile: GPUs want large matrix products, and caches are small on a CPU."""


@dataclass(frozen=True)
class TilingPlan:
    """How MLPs and norms are to be computed."""

    tile_tokens: int | None
    """Positions of one tile; None: whole rows."""
    reason: str
    asked_for: bool = False
    """The user set trainer.tiled_mlp=true: it is done or refused."""

    def __str__(self) -> str:
        """Say it in a line of the log; nothing where nobody asked and nothing is to be gained."""
        how = "whole rows" if self.tile_tokens is None else f"tiles of {self.tile_tokens:,} tokens"
        return f"tiled MLP       {how} ({self.reason})"


WHOLE_ROWS = TilingPlan(None, "the default")


def tile_tokens(device: torch.device) -> int:
    """Return the positions of one tile on `device`."""
    return TILE_TOKENS_CUDA if device.type == "cuda" else TILE_TOKENS_CPU
