"""Optimizers that train other weights than those that are to be used, and know both.

Schedule-free ones (Defazio et al. 2024, arXiv:2405.15682) take gradients at one point and answer
with the average of another. Their `eval` puts the answer into the model, and `train` the point
where training goes on. A checkpoint holds the latter, and the state that the former follows from.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def has_weights_to_use(optimizer: Any) -> bool:
    """Tell whether an optimizer, also inside accelerate's wrapper, has weights of both kinds."""
    return hasattr(getattr(optimizer, "optimizer", optimizer), "eval")


@contextmanager
def weights_to_use(optimizer: Any) -> Iterator[None]:
    """Have those in the model that are to be used, and afterwards those that are trained."""
    if not has_weights_to_use(optimizer):
        yield
        return
    optimizer.eval()
    try:
        yield
    finally:
        optimizer.train()
