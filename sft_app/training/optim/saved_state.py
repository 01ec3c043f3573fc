"""Read an optimizer's state from a checkpoint, without running what a pickle could hold.

GaLore and APOLLO keep an object beside the tensors of a matrix: by which it is projected. Their
classes are allowed when the optimizer that is trained with is theirs, whose package is imported.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch.serialization import safe_globals

PROJECTORS = (
    ("galore_torch.galore_projector", "GaLoreProjector"),
    ("apollo_torch.svd_projector", "GaLoreProjector"),
    ("apollo_torch.random_projector", "GradientProjector"),
)
"""Where they are: numbers, names and a tensor each."""


def read_state(path: Path, device: torch.device) -> dict[str, Any]:
    """Return the state in a file, its tensors on `device`."""
    modules = ((sys.modules.get(module), name) for module, name in PROJECTORS)
    known = [getattr(module, name) for module, name in modules if module is not None]
    with safe_globals(known):
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return state
